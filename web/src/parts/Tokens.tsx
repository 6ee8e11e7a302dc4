import { short } from "../format";

interface Props {
  tokens: string[];
  /** Shares of the peak, 0 to 1, of one latent. */
  first: number[];
  /** Of a second one, which colours the lower half. */
  second?: number[];
  /** Activations, for the titles. */
  values?: (index: number) => string;
  peak?: number;
  selected?: number;
  onSelect?: (index: number) => void;
}

/** Text with activations as shades. Spaces are dots, and line ends are marked; copying keeps both as they are. */
export function Tokens({ tokens, first, second, values, peak, selected, onSelect }: Props) {
  return (
    <div class="tokens">
      {tokens.map((token, index) => {
        const active = first[index] > 0 || (second?.[index] ?? 0) > 0;
        const classes = ["token"];
        if (active) classes.push("active");
        if (second) classes.push("two");
        if (index === peak) classes.push("peak");
        if (index === selected) classes.push("selected");
        const style = active
          ? { "--a": first[index].toFixed(2), "--b": (second?.[index] ?? 0).toFixed(2) }
          : undefined;
        const title = values?.(index);
        // Not a button: these do not break lines as text does.
        const choice = onSelect && {
          role: "button" as const,
          tabIndex: 0,
          "aria-pressed": index === selected,
          onClick: () => onSelect(index),
          onKeyDown: (event: KeyboardEvent) => {
            if (event.key !== "Enter" && event.key !== " ") return;
            event.preventDefault();
            onSelect(index);
          },
        };
        return (
          <span class={classes.join(" ")} style={style} title={active || onSelect ? title : undefined} {...choice}>
            <Whitespace text={token} />
          </span>
        );
      })}
    </div>
  );
}

function Whitespace({ text }: { text: string }) {
  return (
    <>
      {text.split(/( +|\t|\n)/).map((piece) => {
        if (piece === "\n") return <span class="newline">{"\n"}</span>;
        if (piece === "\t") return <span class="tab">{"\t"}</span>;
        if (/^ +$/.test(piece)) return <span class="space">{piece}</span>;
        return piece;
      })}
    </>
  );
}

export const activation = (value: number, hundredths: number) =>
  short((value * hundredths) / 100);

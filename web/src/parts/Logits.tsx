import { signed, visible } from "../format";

interface Props {
  rows: [string, number][];
  caption: string;
}

/** Tokens and what each gains, with a bar. */
export function Logits({ rows, caption }: Props) {
  const largest = Math.max(...rows.map(([, value]) => Math.abs(value)), 1e-9);
  return (
    <table class="logits">
      <caption>{caption}</caption>
      <tbody>
        {rows.map(([token, value]) => (
          <tr>
            <td class="piece">{visible(token)}</td>
            <td class={`bar ${value < 0 ? "down" : "up"}`}>
              <i style={{ width: `${(100 * Math.abs(value)) / largest}%` }} />
            </td>
            <td class="figure">{signed(value)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

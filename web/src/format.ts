/** A number in few characters. */
export function short(x: number | null | undefined, digits = 3): string {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1000) return x.toLocaleString("en", { maximumFractionDigits: 0 });
  if (size < 0.001) return x.toExponential(1).replace("e-", "e−");
  return String(Number(x.toPrecision(digits))).replace("-", "−");
}

/** A share, in per cent. */
export function percent(x: number | null | undefined): string {
  if (x === null || x === undefined) return "–";
  if (x === 0) return "0 %";
  if (x < 0) return `−${percent(-x)}`.replace("−< ", "> −");
  const p = 100 * x;
  return `${p < 0.01 ? "< 0.01" : p < 1 ? p.toFixed(2) : p < 10 ? p.toFixed(1) : p.toFixed(0)} %`;
}

/** The same with all its digits, so that the numbers of a column end below each other. */
export function fixed(x: number | null, digits = 3): string {
  if (x === null || !(Math.abs(x) >= 0.001 && Math.abs(x) < 1000)) return short(x, digits);
  return x.toPrecision(digits).replace("-", "−");
}

/** With its sign; large ones need no more than three digits. */
export const signed = (x: number, digits = 2) =>
  `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(Math.max(0, Math.min(digits, 2 - Math.floor(Math.log10(Math.max(Math.abs(x), 1e-9))))))}`;

/** As many digits as the largest of some numbers needs to show two. */
export const digitsFor = (values: number[]) =>
  Math.min(5, Math.max(2, 1 - Math.floor(Math.log10(Math.max(...values.map(Math.abs), 1e-9)))));

/** A token on one line, with its whitespace visible. */
export function visible(token: string): string {
  const spaces = (run: string) => (run.length > 3 ? `␣×${run.length}` : "␣".repeat(run.length));
  return token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ +/g, spaces) || "∅";
}

/** Names of hook points without what they all end in: "0", "1" for "0 resid_post", "1 resid_post". */
export function hookLabels(names: string[]): string[] {
  const ends = new Set(names.map((name) => name.slice(name.lastIndexOf(" ") + 1)));
  if (names.length < 2 || ends.size > 1) return names;
  return names.map((name) => name.slice(0, name.lastIndexOf(" ")) || name);
}

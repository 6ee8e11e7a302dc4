/** Decoder norms over hook points as shades, one digit each. */
export function Profile({ digits, hooks }: { digits: string; hooks: string[] }) {
  return (
    <span class="profile" title={hooks.map((hook, k) => `${hook}: 0.${digits[k]}`).join("\n")}>
      {[...digits].map((digit) => (
        <i style={{ "--a": Number(digit) / 9 }} />
      ))}
    </span>
  );
}

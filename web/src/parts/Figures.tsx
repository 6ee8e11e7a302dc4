export type Figure = [name: string, value: string, meaning?: string];

/** Figures beside each other, and, folded, what they are: titles alone are not for touch or keys. */
export function Figures({ of }: { of: Figure[] }) {
  const explained = of.filter(([, , meaning]) => meaning);
  return (
    <>
      <dl class="figures">
        {of.map(([name, value, meaning]) => (
          <div title={meaning}><dt>{name}</dt><dd>{value}</dd></div>
        ))}
      </dl>
      {explained.length > 0 && (
        <details>
          <summary>What these figures are</summary>
          <dl class="meanings">
            {explained.map(([name, , meaning]) => (
              <div><dt>{name}</dt><dd>{meaning}</dd></div>
            ))}
          </dl>
        </details>
      )}
    </>
  );
}

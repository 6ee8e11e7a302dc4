import { useState } from "preact/hooks";
import { short } from "../format";
import type { Example } from "../types";
import { Tokens, activation } from "./Tokens";

interface Props {
  examples: Example[];
  strings: string[];
  /** How many are shown at first. */
  first?: number;
}

export function Examples({ examples, strings, first = 8 }: Props) {
  const [all, setAll] = useState(false);
  const more = examples.length - first;
  return (
    <>
    <ol class="examples">
      {examples.slice(0, all ? undefined : first).map((example) => (
        <li key={`${example.c}.${example.p}`}>
          <div class="value" title={`context ${example.c}`}>
            <b>{short(example.v)}</b>
            {example.w !== undefined && <b class="second">{short(example.w)}</b>}
          </div>
          <Tokens
            tokens={example.t.map((t) => strings[t])}
            first={example.a.map((x) => x / 100)}
            second={example.b?.map((x) => x / 100)}
            peak={example.p}
            values={(k) => {
              if (!example.b) return activation(example.v, example.a[k]);
              return `${example.a[k]} % and ${example.b[k]} % of each latent's maximum here`;
            }}
          />
        </li>
      ))}
    </ol>
    {!all && more > 0 && <button type="button" class="more" onClick={() => setAll(true)}>{more} more</button>}
    </>
  );
}

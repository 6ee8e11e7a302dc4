import { loadExplanations, loadTable, useData } from "../data";
import { visible } from "../format";
import { latentHref } from "../router";

/** What a latent is called: its explanation, or the tokens at which it is most active. */
export function useLabels(): (id: number) => string {
  const [table] = useData(loadTable, ["table"]);
  const [explanations] = useData(loadExplanations, ["explanations"]);
  return (id) => {
    const explanation = explanations?.[id]?.explanation;
    if (explanation) return explanation;
    return table ? table.peaks[id].map((t) => visible(table.strings[t])).join("  ") : "";
  };
}

interface Props {
  id: number;
  label: string;
  href?: string;
}

export function LatentLink({ id, label, href }: Props) {
  return (
    <a class="latent-link" href={href ?? latentHref(id)} title={label}>
      <span class="number">{id}</span>
      <span class="label">{label}</span>
    </a>
  );
}

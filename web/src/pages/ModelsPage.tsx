import { useMemo } from "preact/hooks";
import { load, loadLatent, useData } from "../data";
import { short } from "../format";
import { COLOURS, Chart, Plot } from "../parts/Chart";
import { Examples } from "../parts/Examples";
import { Figures } from "../parts/Figures";
import { LatentLink, useLabels } from "../parts/LatentLink";
import { loadTable } from "../data";
import { latentHref, setQuery } from "../router";
import type { Comparison, Overview, Table } from "../types";

interface Props {
  overview: Overview;
  query: URLSearchParams;
}

export function ModelsPage({ overview, query }: Props) {
  const wanted = () =>
    overview.models
      ? load<{ comparisons: Comparison[] }>("data/models.json.gz")
      : Promise.reject(new Error("This dictionary is of one model: train it on two, --model_name \"a,b\", to see what tells them apart."));
  const [file, error] = useData(wanted, ["models"]);
  const [table] = useData(loadTable, ["table"]);
  if (error) return <p class="notice">{error.message}</p>;
  if (!file || !table) return <p class="notice">Loading…</p>;
  const number = Math.min(Number(query.get("of") ?? 0), file.comparisons.length - 1);
  return (
    <>
      {file.comparisons.length > 1 && (
        <div class="choices">
          {file.comparisons.map(({ a, b }, k) => (
            <button type="button" aria-pressed={k === number} onClick={() => setQuery({ of: String(k) })}>{a} and {b}</button>
          ))}
        </div>
      )}
      <ComparisonView overview={overview} comparison={file.comparisons[number]} table={table} />
    </>
  );
}

function ComparisonView({ comparison, table }: { overview: Overview; comparison: Comparison; table: Table }) {
  const { a, b, columns } = comparison;
  const rows = useMemo(
    () => columns.relative_norm
      .map((norm, id) => ({ id, norm, kind: columns.kind[id], error: columns.nu_error[id], reconstruction: columns.nu_reconstruction[id], density: table.density[id] }))
      .filter((row) => row.density > 0 && row.kind !== "unused" && row.norm !== null),
    [comparison, table],
  );
  const names: Record<string, string> = { "a only": `${a} only`, shared: "shared", "b only": `${b} only`, between: "between" };
  // Limits as in analysis/model_diffing.py.
  const meanings: Record<string, string> = {
    "a only": "live latents with a relative decoder norm below 0.1",
    shared: "from 0.4 to 0.6",
    "b only": "above 0.9",
    between: "neither: from 0.1 to 0.4, or from 0.6 to 0.9",
  };
  const kinds = Object.keys(names);
  const colour = { domain: kinds, range: [COLOURS.blue, COLOURS.green, COLOURS.orange, COLOURS.grey], legend: true, tickFormat: (kind: string) => names[kind] };
  const extent = (x: number | null) => x !== null && x > -0.5 && x < 2.5;
  const scaled = rows.filter((row) => extent(row.error) && extent(row.reconstruction));
  const groups = (["a only", "shared", "b only"] as const).map((kind) => ({
    kind,
    rows: rows.filter((row) => row.kind === kind).sort((x, y) => y.density - x.density),
  }));
  return (
    <>
      <section class="summary">
        <h1>{a} <small>and</small> {b}</h1>
        <Figures of={kinds.map((kind) => [names[kind], String(rows.filter((row) => row.kind === kind).length), meanings[kind]])} />
      </section>
      <div class="columns even">
        <section>
          <h2>Relative decoder norm <small>0: {a} alone, 1: {b} alone</small></h2>
          <Chart label="Histogram of relative decoder norms" of={[comparison]} options={() => ({
            height: 250, marginLeft: 44, marginBottom: 38, x: { domain: [0, 1], label: "relative norm" }, y: { label: "live latents", grid: true },
            color: colour,
            marks: [Plot.rectY(rows, Plot.binX({ y: "count" }, { x: (row: typeof rows[0]) => Math.min(row.norm!, 1 - 1e-9), fill: "kind", thresholds: 40, inset: 0.5 } as never)), Plot.ruleY([0])],
          })} />
        </section>
        <section>
          <h2>Latent scaling <small>ratio {a} to {b}</small></h2>
          <Chart label="Latent scaling of the error against that of the reconstruction" of={[comparison]} options={() => ({
            height: 250, marginLeft: 44, marginBottom: 38, inset: 6, grid: true,
            x: { label: "ν of the reconstruction" }, y: { label: "ν of the error" }, color: colour,
            marks: [Plot.dot(scaled, { x: "reconstruction", y: "error", fill: "kind", fillOpacity: 0.5, r: 2.5, href: (d: typeof scaled[0]) => latentHref(d.id), title: (d: typeof scaled[0]) => `latent ${d.id}: ${short(d.reconstruction)}, ${short(d.error)}` })],
          })} />
          <p class="muted small">A latent of {b} alone has both near 0; one whose ν of the error is far from it is explained in {a} too, whatever its norms say.</p>
        </section>
      </div>
      <div class="columns three">
        {groups.map((group) => <KindList title={names[group.kind]} rows={group.rows} />)}
      </div>
    </>
  );
}

function KindList({ title, rows }: { title: string; rows: { id: number; norm: number | null }[] }) {
  const label = useLabels();
  return (
    <section>
      <h2>{title} <small>{rows.length} live, the most frequent first</small></h2>
      {rows.slice(0, 12).map((row) => (
        <article class="card">
          <div class="card-title"><LatentLink id={row.id} label={label(row.id)} /><span class="figure">{short(row.norm, 2)}</span></div>
          <FirstExample id={row.id} />
        </article>
      ))}
      {!rows.length && <p class="muted">None.</p>}
    </section>
  );
}

function FirstExample({ id }: { id: number }) {
  const [data] = useData(() => loadLatent(id), ["latent", id]);
  return data ? <Examples examples={data.latent.top.slice(0, 1)} strings={data.strings} /> : null;
}

import { useEffect, useMemo, useRef } from "preact/hooks";
import { loadExplanations, loadTable, useData } from "../data";
import { fixed, percent, short, visible } from "../format";
import { COLOURS, Chart, Plot } from "../parts/Chart";
import { Figures } from "../parts/Figures";
import type { Figure } from "../parts/Figures";
import { Profile } from "../parts/Profile";
import { latentHref, setQuery, wanted } from "../router";
import type { Explanation, Overview, Table } from "../types";

const DENSE = 0.1;
const PAGE = 100;
/** More dots than this take longer to draw than a page should. */
const MANY = 3000;

interface Props {
  overview: Overview;
  query: URLSearchParams;
}

export function OverviewPage({ overview, query }: Props) {
  const [table, error] = useData(loadTable, ["table"]);
  const [explanations] = useData(loadExplanations, ["explanations"]);
  return (
    <>
      <Summary overview={overview} />
      <div class="columns even">
        <HookFigures overview={overview} />
        {table && <Scatter overview={overview} table={table} />}
      </div>
      {error && <p class="notice">{error.message}</p>}
      {table && <Latents {...{ overview, table, query }} explanations={explanations ?? {}} />}
    </>
  );
}

function Summary({ overview }: { overview: Overview }) {
  const { evaluation } = overview;
  const n_hooks = overview.hook_names.length;
  const first = overview.hooks[0];
  const last = overview.hooks[n_hooks - 1];
  const figures: Figure[] = [
    ["latents", overview.d_sae.toLocaleString("en")],
    ["L0", short(overview.l0), "active latents per token"],
    ["dead", overview.n_dead.toLocaleString("en"), "active on none of the tokens read"],
    ["dense", overview.n_dense.toLocaleString("en"), "active on more than a tenth of them"],
    ["tokens read", overview.n_tokens.toLocaleString("en"), "held-out text, special tokens left out"],
  ];
  if (evaluation) {
    figures.push(["explained variance", evaluation.pooled.explained_variance.toFixed(3), "pooled over hook points"]);
    figures.push(["CE recovered", evaluation.pooled.ce_recovered.toFixed(3), "all hook points spliced"]);
    if (evaluation.coherence) {
      figures.push(["coherence", evaluation.coherence.selected.toFixed(2), `hook points that drive a latent, 1 to ${n_hooks}`]);
    }
  }
  return (
    <section class="summary">
      <h1>
        {overview.architecture} <small>on {overview.model}, {n_hooks > 1 ? `${n_hooks} hook points, ${first} to ${last}` : first}, {overview.decoder} decoder</small>
      </h1>
      <Figures of={figures} />
      <details>
        <summary>Training, text, settings</summary>
        <div class="settings">
          <Settings title="training" values={overview.training} />
          <Settings title="what is shown here" values={overview.settings} />
        </div>
      </details>
    </section>
  );
}

function Settings({ title, values }: { title: string; values: Record<string, unknown> }) {
  return (
    <table class="plain">
      <caption>{title}</caption>
      {Object.entries(values).filter(([, value]) => value !== null).map(([name, value]) => (
        <tr><td>{name}</td><td>{String(value)}</td></tr>
      ))}
    </table>
  );
}

function HookFigures({ overview }: { overview: Overview }) {
  const { evaluation } = overview;
  if (!evaluation) {
    return (
      <section>
        <h2>Hook points</h2>
        <p class="muted">No evaluation of these weights is saved beside them: <code>python -m sae_lens_poly evaluate DIR</code>, then <code>explore</code> again, puts the figures here.</p>
        <ul class="hooks">{overview.hook_names.map((name) => <li><code>{name}</code></li>)}</ul>
      </section>
    );
  }
  const names = Object.keys(evaluation.per_hook);
  const degrees = Object.keys(evaluation.pooled.degree_shares).filter((d) => d !== "1");
  const rows = [...names.map((name) => [name, evaluation.per_hook[name]] as const), ["pooled", evaluation.pooled] as const];
  return (
    <section>
      <h2>Hook points</h2>
      <div class="scroll">
        <table class="plain figures-table">
          <thead>
            <tr>
              <th>hook point</th><th title="explained variance">EV</th><th title="with the terms above degree 1 left out">EV, linear</th>
              <th title="cosine of activation and reconstruction">cosine</th><th title="share of the cross-entropy kept">CE rec.</th>
              {degrees.map((d) => <th title={`share of the reconstruction of degree ${d}`}>deg. {d}</th>)}
              <th>L0</th><th>dead</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(([name, f]) => (
              <tr class={name === "pooled" ? "total" : ""}>
                <td title={name}>{overview.hooks[overview.hook_names.indexOf(name)] ?? name}</td>
                <td>{f.explained_variance.toFixed(3)}</td><td>{f.explained_variance_linear.toFixed(3)}</td>
                <td>{f.cosine.toFixed(3)}</td><td>{f.ce_recovered.toFixed(3)}</td>
                {degrees.map((d) => <td>{percent(f.degree_shares[d])}</td>)}
                <td>{f.l0.toFixed(1)}</td><td>{f.n_dead}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Scatter({ overview, table }: { overview: Overview; table: Table }) {
  const layered = overview.written.length > 1;
  const rows = useMemo(
    () =>
      table.density
        .map((density, id) => ({ id, density, y: layered ? table.spread[id] : table.max[id] }))
        .filter((row) => row.density > 0 && row.y !== null),
    [table],
  );
  const y = layered ? "decoder spread (hook points)" : "largest activation";
  const many = rows.length > MANY;
  return (
    <section>
      <h2>Density against {layered ? "decoder spread" : "largest activation"}</h2>
      <Chart
        label={`Density of ${rows.length} live latents against ${y}`}
        of={[rows]}
        options={(width) => ({
          height: 280, marginLeft: 44, marginBottom: 38, inset: 8,
          x: { type: "log", label: "density", grid: true, tickFormat: (d: number) => `${Number((100 * d).toPrecision(1))}%`, ticks: width < 500 ? 4 : 7 },
          y: { label: y, grid: true, type: layered ? "linear" : "log", nice: true, ticks: 5 },
          color: many ? { scheme: "blues", type: "sqrt" as never, range: [0.25, 1] } : undefined,
          marks: [
            Plot.ruleX([DENSE], { stroke: COLOURS.orange, strokeDasharray: "3,3" }),
            Plot.text([DENSE], { x: (d: number) => d, text: () => " dense", frameAnchor: "top", textAnchor: "start", fill: COLOURS.orange }),
            many
              ? Plot.dot(rows, Plot.hexbin({ fill: "count" }, { x: "density", y: "y", binWidth: 9, symbol: "hexagon", r: 5 }))
              : Plot.dot(rows, {
                  x: "density", y: "y", r: 2, fill: COLOURS.blue, fillOpacity: 0.5,
                  href: (d: { id: number }) => latentHref(d.id),
                  title: (d: { id: number; density: number; y: number }) => `latent ${d.id}: ${percent(d.density)}, ${short(d.y)}`,
                }),
          ],
        })}
      />
    </section>
  );
}

type Column = { key: string; name: string; title: string; of: (id: number) => number | null; show: (id: number) => unknown };

interface LatentsProps {
  overview: Overview;
  table: Table;
  explanations: Record<string, Explanation>;
  query: URLSearchParams;
}

function Latents({ overview, table, explanations, query }: LatentsProps) {
  const search = query.get("q") ?? "";
  const sort = query.get("sort") ?? "id";
  const show = query.get("show") ?? "live";
  const shown = Number(query.get("rows") ?? PAGE);
  const layered = overview.written.length > 1;
  const hooks = overview.written.map((hook) => overview.hooks[hook]);
  const scored = Object.keys(explanations).length > 0;

  const searchField = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (wanted.search) searchField.current?.focus();
    wanted.search = false;
  }, []);

  const columns = useMemo<Column[]>(() => {
    const figure = (key: "max" | "mean" | "spread" | "centre" | "coherence", name: string, title: string): Column => ({
      key, name, title, of: (id) => table[key][id], show: (id) => fixed(table[key][id]),
    });
    return [
      { key: "density", name: "density", title: "share of tokens on which it is active", of: (id) => table.density[id], show: (id) => percent(table.density[id]) },
      figure("mean", "mean", "mean activation where active"),
      figure("max", "max", "largest activation"),
      ...(layered ? [
        figure("spread", "spread", "effective number of hook points that it writes"),
        figure("centre", "centre", "centre of mass of its decoder over hook points, from 0"),
        figure("coherence", "coherence", "effective number of hook points that drive it"),
      ] : []),
      ...(scored ? [{
        key: "score", name: "score", title: "detection, balanced accuracy; chance is 0.5",
        of: (id: number) => explanations[id]?.detection?.balanced_accuracy ?? null,
        show: (id: number) => short(explanations[id]?.detection?.balanced_accuracy ?? null, 2),
      }] : []),
    ];
  }, [table, explanations]);

  const texts = useMemo(
    () => table.peaks.map((peaks, id) =>
      `${id}\n${peaks.map((t) => table.strings[t]).join("\n")}\n${explanations[id]?.explanation ?? ""}`.toLowerCase()),
    [table, explanations],
  );

  const rows = useMemo(() => {
    const sought = search.toLowerCase();
    const isShown: Record<string, (id: number) => boolean> = {
      live: (id) => table.density[id] > 0,
      dense: (id) => table.density[id] > DENSE,
      dead: (id) => table.density[id] === 0,
      explained: (id) => Boolean(explanations[id]?.explanation),
      all: () => true,
    };
    const ids = texts.map((_, id) => id).filter((id) => isShown[show]?.(id) && texts[id].includes(sought));
    const descending = sort.startsWith("-");
    const column = columns.find(({ key }) => key === sort.replace("-", ""));
    if (column) {
      const sign = descending ? -1 : 1;
      // What has no figure comes last, whichever way.
      ids.sort((a, b) => {
        const [x, y] = [column.of(a), column.of(b)];
        if (x === null || y === null) return Number(x === null) - Number(y === null);
        return sign * (x - y);
      });
    } else if (descending) ids.reverse();
    // A number is that latent first, then what has it in a token.
    const exact = ids.indexOf(/^\d+$/.test(sought) ? Number(sought) : -1);
    if (exact > 0) ids.unshift(...ids.splice(exact, 1));
    return ids;
  }, [table, columns, texts, search, sort, show]);

  const heading = (key: string, name: string, title: string) => {
    const direction = sort === key ? "ascending" : sort === `-${key}` ? "descending" : "none";
    return (
      <th aria-sort={direction} class={`col-${key}`}>
        <button type="button" title={title} onClick={() => setQuery({ sort: sort === `-${key}` ? key : `-${key}`, rows: null })}>
          {name}<span aria-hidden="true">{{ ascending: " ▴", descending: " ▾", none: "" }[direction]}</span>
        </button>
      </th>
    );
  };
  return (
    <section>
      <div class="tools">
        <h2>Latents</h2>
        <input id="search" ref={searchField} type="search" value={search} placeholder={`number, token${scored ? ", explanation" : ""}   ( / )`} aria-label="Search the latents"
          onInput={(event) => setQuery({ q: event.currentTarget.value, rows: null })} />
        <select value={show} aria-label="Which latents" onChange={(event) => setQuery({ show: event.currentTarget.value, rows: null })}>
          <option value="live">live</option><option value="dense">dense</option><option value="dead">dead</option>
          {scored && <option value="explained">explained</option>}<option value="all">all</option>
        </select>
        <span class="muted" role="status">{rows.length.toLocaleString("en")} of {overview.d_sae.toLocaleString("en")}</span>
      </div>
      <div class="scroll">
        <table class="latents">
          <thead>
            <tr>
              {heading("id", "latent", "number")}
              <th class="wide">{scored ? "explanation, or " : ""}most active at</th>
              {layered && <th>hook points</th>}
              {columns.map((c) => heading(c.key, c.name, c.title))}
            </tr>
          </thead>
          <tbody>
            {rows.slice(0, shown).map((id) => (
              <tr key={id}>
                <td><a href={latentHref(id)}>{id}</a></td>
                <td class="wide">
                  {explanations[id]?.explanation ? <span class="explanation">{explanations[id].explanation}</span> : null}
                  {table.peaks[id].map((t) => <code class="piece">{visible(table.strings[t])}</code>)}
                </td>
                {layered && <td><Profile digits={table.profile[id]} hooks={hooks} /></td>}
                {columns.map((c) => (
                  <td class={`figure ${c.key === "density" && table.density[id] > DENSE ? "warn" : ""}`}>{c.show(id) as string}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {rows.length > shown && (
        <button type="button" class="more" onClick={() => setQuery({ rows: String(shown + 5 * PAGE) })}>
          {(rows.length - shown).toLocaleString("en")} more
        </button>
      )}
      {rows.length === 0 && <p class="muted">No latent fits.</p>}
    </section>
  );
}

import { loadExplanations, loadLatent, useData } from "../data";
import { hookLabels, percent, short } from "../format";
import { COLOURS, Chart, Plot } from "../parts/Chart";
import { Examples } from "../parts/Examples";
import { Figures } from "../parts/Figures";
import type { Figure } from "../parts/Figures";
import { LatentLink, useLabels } from "../parts/LatentLink";
import { Logits } from "../parts/Logits";
import { latentHref, pairHref, setQuery } from "../router";
import type { Explanation, Latent, Overview } from "../types";

interface Props {
  overview: Overview;
  id: number;
  query: URLSearchParams;
}

export function LatentPage({ overview, id, query }: Props) {
  const [data, error] = useData(() => loadLatent(id), ["latent", id]);
  const [explanations] = useData(loadExplanations, ["explanations"]);
  const label = useLabels();
  if (error) return <p class="notice">{error.message}</p>;
  if (!data) return <p class="notice">Loading…</p>;
  const { latent, strings } = data;
  return (
    <>
      <Heading {...{ overview, latent }} explanation={explanations?.[id]} />
      <div class="columns latent">
        <div>
          <ExampleGroups {...{ latent, strings, query }} />
        </div>
        <div class="panels">
          {overview.written.length > 1 && <HookProfile {...{ overview, latent }} />}
          <LogitTables {...{ overview, latent, strings, query }} />
          <Histogram {...{ overview, latent }} />
          {latent.cosines && <Cosines {...{ overview, latent }} />}
          {latent.curve && latent.n_active > 0 && <Curve {...{ overview, latent }} />}
          <Neighbours {...{ overview, latent, label }} />
        </div>
      </div>
    </>
  );
}

function Heading({ overview, latent, explanation }: { overview: Overview; latent: Latent; explanation?: Explanation }) {
  const dense = latent.density > 0.1;
  const figures: Figure[] = [
    ["density", percent(latent.density), `${latent.n_active.toLocaleString("en")} of ${overview.n_tokens.toLocaleString("en")} tokens: share on which it is active`],
    ["mean", short(latent.mean), "mean activation where active"],
    ["max", short(latent.max), "largest activation"],
  ];
  if (latent.coherence !== null) figures.push(["coherence", short(latent.coherence), `functional coherence: effective number of hook points that drive it, 1 to ${overview.hooks.length}`]);
  if (explanation?.detection) figures.push(["detection", intervalOf(explanation.detection), "balanced accuracy of a judge with the explanation, 95% interval; chance is 0.5"]);
  if (explanation?.fuzzing) figures.push(["fuzzing", intervalOf(explanation.fuzzing), "the same, for which tokens are marked; chance is 0.5"]);
  return (
    <section class="summary">
      <div class="title">
        <a class="step" href={latentHref(Math.max(0, latent.id - 1))} aria-label="Previous latent">‹</a>
        <h1>Latent {latent.id}</h1>
        <a class="step" href={latentHref(Math.min(overview.d_sae - 1, latent.id + 1))} aria-label="Next latent">›</a>
        {dense && <span class="tag warn">dense</span>}
        {latent.n_active === 0 && <span class="tag">dead on this text</span>}
        {explanation?.explanation && <p class="explanation">{explanation.explanation}</p>}
      </div>
      <Figures of={figures} />
    </section>
  );
}

const intervalOf = (score: { balanced_accuracy: number; interval: [number, number] }) =>
  `${score.balanced_accuracy.toFixed(2)} (${score.interval.map((x) => x.toFixed(2)).join(" to ")})`;

function ExampleGroups({ latent, strings, query }: { latent: Latent; strings: string[]; query: URLSearchParams }) {
  const view = query.get("examples") ?? "top";
  const n_drawn = latent.quantiles.flat().length;
  if (!latent.top.length) return <p class="notice">It was active on no token that was read.</p>;
  const tab = (name: string, text: string) => (
    <button type="button" role="tab" aria-selected={view === name} onClick={() => setQuery({ examples: name })}>{text}</button>
  );
  return (
    <section>
      <div class="tools" role="tablist">
        {tab("top", "Most active")}
        {tab("quantiles", "By quantile")}
        <span class="muted">{view === "top" ? `${latent.top.length} contexts` : `${n_drawn} contexts drawn evenly, fifths from high to low`}</span>
      </div>
      {view === "top" ? (
        <Examples key={latent.id} examples={latent.top} strings={strings} />
      ) : (
        latent.quantiles.map((examples, k) =>
          examples.length > 0 && (
            <>
              <h3>{["Highest fifth", "Second fifth", "Middle fifth", "Fourth fifth", "Lowest fifth"][k]}</h3>
              <Examples examples={examples} strings={strings} />
            </>
          ),
        )
      )}
    </section>
  );
}

function HookProfile({ overview, latent }: { overview: Overview; latent: Latent }) {
  const hooks = hookLabels(overview.hooks);
  const written = overview.written.map((hook) => hooks[hook]);
  const scaled = (values: (number | null)[]) => {
    const largest = Math.max(...values.map((x) => x ?? 0)) || 1;
    return values.map((x) => (x === null ? null : x / largest));
  };
  const series: [string, string[], (number | null)[]][] = [
    ["writes", written, latent.decoder],
    ["reads", hooks, latent.encoder],
    ["driven by", hooks, latent.drive],
  ];
  const rows = series.flatMap(([name, own, values]) =>
    scaled(values).map((value, k) => ({ name, hook: own[k], value })).filter((row) => row.value !== null),
  );
  return (
    <section>
      <h2>Over hook points <small>scaled to maximum 1</small></h2>
      <Chart
        label="Decoder norm, encoder norm and functional drive over hook points"
        of={[latent]}
        options={() => ({
          height: 170, marginLeft: 34,
          x: { domain: hooks, type: "point", label: null },
          y: { domain: [0, 1], label: null, grid: true, ticks: 4 },
          color: { domain: series.map(([name]) => name), range: [COLOURS.blue, COLOURS.orange, COLOURS.green], legend: true },
          symbol: { domain: series.map(([name]) => name) },
          marks: [
            Plot.lineY(rows, { x: "hook", y: "value", stroke: "name", strokeWidth: 1.5 }),
            Plot.dot(rows, { x: "hook", y: "value", stroke: "name", symbol: "name", r: 3, title: (d: typeof rows[0]) => `${d.name} ${d.hook}: ${short(d.value)}` }),
          ],
        })}
      />
      <p class="muted small">Writes: decoder norm; reads: encoder norm, both in units in which all hook points are as large. Driven by: relative change when the encoder does not see that hook point.</p>
    </section>
  );
}

function LogitTables({ overview, latent, strings, query }: { overview: Overview; latent: Latent; strings: string[]; query: URLSearchParams }) {
  if (!latent.logits.length || latent.n_active === 0) return null;
  const last = latent.logits.length - 1;
  const at = Math.min(Number(query.get("hook") ?? last), last);
  const rows = latent.logits[at].map(([t, value]) => [strings[t], value] as [string, number]);
  const half = rows.length / 2;
  return (
    <section>
      <div class="tools">
        <h2>Writes to the logits</h2>
        {last > 0 && (
          <span class="choices" role="group" aria-label="Hook point">
            {overview.written.map((hook, k) => (
              <button type="button" aria-pressed={k === at} onClick={() => setQuery({ hook: String(k) })}>{hookLabels(overview.hooks)[hook]}</button>
            ))}
          </span>
        )}
      </div>
      <div class="side-by-side">
        <Logits rows={rows.slice(0, half)} caption="raises" />
        <Logits rows={rows.slice(half).reverse()} caption="lowers" />
      </div>
      <p class="muted small">Direct path from {overview.hooks[overview.written[at]]}, at its mean activation, in nats.</p>
    </section>
  );
}

function Histogram({ overview, latent }: { overview: Overview; latent: Latent }) {
  const [first, counts] = latent.histogram;
  if (!counts.length) return null;
  const edge = (bin: number) => 2 ** (overview.first_octave + bin / overview.bins_per_octave);
  const rows = counts.map((count, k) => ({ count, from: edge(first + k), to: edge(first + k + 1) }));
  return (
    <section>
      <h2>Activations</h2>
      <Chart
        label="Histogram of activations"
        of={[latent]}
        options={() => ({
          height: 140, marginLeft: 40, marginBottom: 38,
          x: { type: "log", label: "activation", ticks: 5, tickFormat: (d: number) => short(d, 2) },
          y: { label: "tokens", grid: true, ticks: 3 },
          marks: [
            Plot.rectY(rows, { x1: "from", x2: "to", y: "count", fill: COLOURS.blue, fillOpacity: 0.75, inset: 0.25, title: (d: typeof rows[0]) => `${short(d.from)} to ${short(d.to)}: ${d.count} tokens` }),
            Plot.ruleY([0]),
          ],
        })}
      />
    </section>
  );
}

function Cosines({ overview, latent }: { overview: Overview; latent: Latent }) {
  const hooks = overview.written.map((hook) => hookLabels(overview.hooks)[hook]);
  const rows = latent.cosines!.flatMap((line, r) => line.map((value, c) => ({ a: hooks[r], b: hooks[c], value })));
  return (
    <section>
      <h2>Directions <small>cosines between hook points</small></h2>
      <Chart
        label="Cosines of the decoder directions between hook points"
        of={[latent]}
        options={(width) => ({
          height: Math.min(210, width), marginLeft: 60,
          x: { domain: hooks, label: null }, y: { domain: hooks, label: null },
          color: { scheme: "RdBu", domain: [-1, 1], reverse: false },
          marks: [
            Plot.cell(rows, { x: "b", y: "a", fill: "value", inset: 0.5 }),
            Plot.text(rows, { x: "b", y: "a", text: (d: typeof rows[0]) => d.value.toFixed(2).replace("-", "−").replace(/^(−?)0/, "$1"), fill: (d: typeof rows[0]) => (Math.abs(d.value) > 0.6 ? "white" : "black"), fontSize: 10 }),
          ],
        })}
      />
    </section>
  );
}

function Curve({ overview, latent }: { overview: Overview; latent: Latent }) {
  const { z, along, across } = latent.curve!;
  const strongest = latent.decoder.indexOf(Math.max(...latent.decoder));
  const rows = [
    ...z.map((x, k) => ({ name: "along its direction", x, y: along[strongest][k] })),
    ...z.map((x, k) => ({ name: "away from it", x, y: across[strongest][k] })),
  ];
  const slope = latent.decoder[strongest];
  return (
    <section>
      <h2>Curve <small>what it adds at {overview.hooks[overview.written[strongest]]}, alone</small></h2>
      <Chart
        label="How far the latent goes along its linear direction and away from it"
        of={[latent]}
        options={() => ({
          height: 160, marginLeft: 40, marginBottom: 38,
          x: { label: "activation", ticks: 5 }, y: { label: null, grid: true, ticks: 4 },
          color: { domain: ["along its direction", "away from it", "linear term"], range: [COLOURS.blue, COLOURS.orange, COLOURS.grey], legend: true },
          marks: [
            Plot.line(rows, { x: "x", y: "y", stroke: "name", strokeWidth: 1.75 }),
            Plot.line([{ x: 0, y: 0 }, { x: z[z.length - 1], y: slope * z[z.length - 1] }], { x: "x", y: "y", stroke: () => "linear term", strokeDasharray: "3,3" }),
          ],
        })}
      />
    </section>
  );
}

function Neighbours({ overview, latent, label }: { overview: Overview; latent: Latent; label: (id: number) => string }) {
  return (
    <section class="neighbours">
      {latent.partners.length > 0 && (
        <table class="plain">
          <caption>{overview.interact ? "Pairs that interact" : "Pairs"}</caption>
          <thead><tr><th>with</th><th title={overview.interact ? "what the pair term adds, against what both latents add one by one, at their mean activations" : ""}>{overview.interact ? "share" : ""}</th></tr></thead>
          {latent.partners.map(([j, share, dense]) => (
            <tr class={dense ? "is-dense" : ""}>
              <td><LatentLink id={j} label={label(j)} href={pairHref(latent.id, j)} />{dense && <span class="tag warn">dense</span>}</td>
              <td class="figure">{share === null ? "" : percent(share)}</td>
            </tr>
          ))}
        </table>
      )}
      <table class="plain">
        <caption>Active together</caption>
        <thead><tr><th>with</th><th title="correlation of being active">phi</th><th title="share of this latent's tokens">share</th></tr></thead>
        {latent.together.map(([j, phi, share]) => (
          <tr><td><LatentLink id={j} label={label(j)} /></td><td class="figure">{phi.toFixed(2)}</td><td class="figure">{percent(share)}</td></tr>
        ))}
      </table>
      <table class="plain">
        <caption>Nearest decoders</caption>
        <thead><tr><th>latent</th><th>cosine</th></tr></thead>
        {latent.nearest.map(([j, cosine]) => (
          <tr><td><LatentLink id={j} label={label(j)} /></td><td class="figure">{cosine.toFixed(2)}</td></tr>
        ))}
      </table>
    </section>
  );
}

import { loadLatent, loadPair, useData } from "../data";
import { digitsFor, hookLabels, percent, short, signed, visible } from "../format";
import { COLOURS, Chart, Plot } from "../parts/Chart";
import { Examples } from "../parts/Examples";
import { Figures } from "../parts/Figures";
import type { Figure } from "../parts/Figures";
import { LatentLink, useLabels } from "../parts/LatentLink";
import { Logits } from "../parts/Logits";
import { pairHref } from "../router";
import type { Overview, Pair } from "../types";

interface Props {
  overview: Overview;
  i: number;
  j: number;
}

export function PairPage({ overview, i, j }: Props) {
  const [data, error] = useData(() => loadPair(i, j), ["pair", i, j]);
  const label = useLabels();
  if (error) return <p class="notice">{error.message}</p>;
  if (!data) return <p class="notice">Loading…</p>;
  const { pair, strings } = data;
  return (
    <>
      <section class="summary">
        <div class="title pair-title">
          <h1>Pair</h1>
          <span class="swatch first"><LatentLink id={pair.i} label={label(pair.i)} /></span>
          <span class="muted">with</span>
          <span class="swatch second"><LatentLink id={pair.j} label={label(pair.j)} /></span>
        </div>
        <Figures of={figuresOf(overview, pair)} />
      </section>
      <div class="columns latent">
        <section>
          <div class="tools"><h2>Both active</h2><span class="muted">{pair.examples.length ? "largest product of activations first" : ""}</span></div>
          {pair.examples.length ? <Examples examples={pair.examples} strings={strings} /> : <p class="notice">On no token of the sample.</p>}
        </section>
        <div class="panels">
          <Norms overview={overview} pair={pair} />
          <PairLogits pair={pair} strings={strings} overview={overview} />
          <section class="neighbours">
            <Partners of={pair.i} not={pair.j} label={label} />
            <Partners of={pair.j} not={pair.i} label={label} />
          </section>
        </div>
      </div>
    </>
  );
}

function figuresOf(overview: Overview, pair: Pair): Figure[] {
  const lift = pair.n_expected ? pair.n_both / pair.n_expected : null;
  const n = (x: number) => x.toLocaleString("en");
  const figures: Figure[] = [
    ["both active", n(pair.n_both), `tokens of the ${n(pair.n_sampled)} sampled ones; ${pair.i} is active on ${n(pair.n_i)} of these, ${pair.j} on ${n(pair.n_j)}`],
    ["against chance", lift === null ? "–" : `× ${short(lift, 2)}`, `latents that know nothing of each other would be active together on ${short(pair.n_expected)}`],
    [`${pair.j} given ${pair.i}`, percent(pair.n_i ? pair.n_both / pair.n_i : 0), `share of the tokens of ${pair.i} on which ${pair.j} is active too`],
    [`${pair.i} given ${pair.j}`, percent(pair.n_j ? pair.n_both / pair.n_j : 0), `share of the tokens of ${pair.j} on which ${pair.i} is active too`],
    ["cosine", signed(pair.cosine), "of their decoders, over all hook points"],
    ["mean activations", pair.typical.map((x) => short(x)).join(", "), `of ${pair.i} and of ${pair.j}, each over all tokens on which it is active`],
    ["when both are", pair.typical_together.map((x) => short(x)).join(", "), "their mean activations on the sampled tokens on which both are active"],
  ];
  if (overview.interact) {
    figures.unshift(["pair term", percent(pair.share), "norm of what the decoder adds because both are active, against the norm of the sum of what each adds alone, both at their mean activations"]);
  }
  return figures;
}

function Norms({ overview, pair }: { overview: Overview; pair: Pair }) {
  if (overview.written.length < 2) return null;
  const labels = hookLabels(overview.hooks);
  const hooks = overview.written.map((hook) => labels[hook]);
  const names = { i: `latent ${pair.i}`, j: `latent ${pair.j}`, pair: "pair term" };
  const rows = Object.entries(pair.norms).flatMap(([key, values]) =>
    values.map((value, k) => ({ name: names[key as keyof typeof names], hook: hooks[k], value })));
  return (
    <section>
      <h2>What each adds <small>norm at each hook point, at mean activations</small></h2>
      <Chart
        label="Norms of what the latents and the pair term add, over hook points"
        of={[pair]}
        options={() => ({
          height: 180, marginLeft: 40,
          x: { type: "point", domain: hooks, label: null },
          y: { label: null, grid: true, ticks: 4, zero: true },
          color: { domain: Object.values(names), range: [COLOURS.orange, COLOURS.blue, COLOURS.green], legend: true },
          symbol: { domain: Object.values(names) },
          marks: [
            Plot.lineY(rows, { x: "hook", y: "value", stroke: "name" }),
            Plot.dot(rows, { x: "hook", y: "value", stroke: "name", symbol: "name", r: 3, title: (d: typeof rows[0]) => `${d.name}, ${d.hook}: ${short(d.value)}` }),
          ],
        })}
      />
    </section>
  );
}

function PairLogits({ overview, pair, strings }: { overview: Overview; pair: Pair; strings: string[] }) {
  const [first] = useData(() => loadLatent(pair.i), ["latent", pair.i]);
  const [second] = useData(() => loadLatent(pair.j), ["latent", pair.j]);
  const raised = (data: typeof first) => {
    const rows = data?.latent.logits.at(-1) ?? [];
    return rows.slice(0, rows.length / 2).map(([t, value]) => [data!.strings[t], value] as [string, number]);
  };
  const digits = digitsFor(pair.logits?.map((row) => row[3]) ?? []);
  const hook = overview.hooks[overview.written[overview.written.length - 1]];
  return (
    <section>
      <h2>To the logits <small>direct path from {hook}, in nats</small></h2>
      <div class="side-by-side">
        <Logits rows={raised(first)} caption={`latent ${pair.i} raises`} />
        <Logits rows={raised(second)} caption={`latent ${pair.j} raises`} />
      </div>
      {pair.logits && (
        <table class="plain pair-logits">
          <caption>What the pair term moves most, beside what each latent does to the same tokens</caption>
          <thead><tr><th>token</th><th>{pair.i}</th><th>{pair.j}</th><th>pair term</th></tr></thead>
          <tbody>
            {pair.logits.map(([token, i, j, both]) => (
              <tr>
                <td class="piece">{visible(strings[token])}</td>
                {[i, j].map((x) => <td class="figure">{signed(x)}</td>)}
                <td class={`figure ${both < 0 ? "down" : "up"}`}>{signed(both, digits)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </section>
  );
}

function Partners({ of, not, label }: { of: number; not: number; label: (id: number) => string }) {
  const [data] = useData(() => loadLatent(of), ["latent", of]);
  if (!data) return null;
  return (
    <table class="plain">
      <caption>Other pairs of {of}</caption>
      {data.latent.partners.filter(([j]) => j !== not).map(([j, share, dense]) => (
        <tr class={dense ? "is-dense" : ""}>
          <td><LatentLink id={j} label={label(j)} href={pairHref(of, j)} />{dense && <span class="tag warn">dense</span>}</td>
          <td class="figure">{share === null ? "" : percent(share)}</td>
        </tr>
      ))}
    </table>
  );
}

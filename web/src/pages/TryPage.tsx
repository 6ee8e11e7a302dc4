import { useEffect, useRef, useState } from "preact/hooks";
import { tryText } from "../data";
import { short, visible } from "../format";
import { COLOURS, Chart, Plot } from "../parts/Chart";
import { LatentLink, useLabels } from "../parts/LatentLink";
import { Tokens } from "../parts/Tokens";
import { setQuery } from "../router";
import type { Edit, Overview, Tried } from "../types";

const EXAMPLE = "def area(width, height):\n    return width * ";

interface Props {
  overview: Overview;
  served: boolean;
  query: URLSearchParams;
}

const writeEdits = (edits: Edit[]) => edits.map((e) => `${e.kind}.${e.latent}.${e.value}`).join("~");
const readEdits = (text: string): Edit[] =>
  text.split("~").filter(Boolean).map((part) => {
    const [kind, latent, ...value] = part.split(".");
    return { kind: kind === "add" ? "add" : "clamp", latent: Number(latent), value: Number(value.join(".")) };
  });

export function TryPage({ overview, served, query }: Props) {
  const [text, setText] = useState(query.get("text") ?? EXAMPLE);
  const [tried, setTried] = useState<Tried | null>(null);
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const [position, setPosition] = useState<number | null>(null);
  const [focus, setFocus] = useState<number | null>(null);
  const edits = readEdits(query.get("edits") ?? "");
  const hook = query.get("at");
  const label = useLabels();
  const asked = useRef(0);

  // Answers can overtake each other (a refusal needs no model): only the answer to the last question is shown.
  const run = async () => {
    if (!served || !text) return;
    const question = ++asked.current;
    setBusy(true);
    try {
      const found = await tryText(text, edits, hook === null ? null : Number(hook));
      if (question !== asked.current) return;
      setTried(found);
      setError("");
      if (position === null || position >= found.tokens.length) setPosition(found.tokens.length - 1);
    } catch (failure) {
      if (question !== asked.current) return;
      setError((failure as Error).message);
    }
    setBusy(false);
  };
  const key = [query.get("text"), query.get("edits"), hook].join("\n");
  useEffect(() => {
    run();
  }, [key]);

  if (!served) return <p class="notice">Here a text is run through the model, which static pages cannot do: <code>python -m sae_lens_poly explore DIR</code> serves them with it.</p>;

  const setEdits = (changed: Edit[]) => setQuery({ edits: writeEdits(changed) });
  const submit = () => (text === query.get("text") ? run() : setQuery({ text }));
  const at = position ?? 0;
  const of = (latent: number) => tried!.codes.map((codes) => codes.find(([id]) => id === latent)?.[1] ?? 0);
  const first = tried ? (focus === null ? tried.codes.map((codes) => codes.length) : of(focus)) : [];
  const largest = Math.max(...first, 1e-9);
  return (
    <div class="columns latent">
      <section>
        <form onSubmit={(event) => { event.preventDefault(); submit(); }}>
          <textarea aria-label="Text" rows={5} value={text} spellcheck={false} onInput={(event) => setText(event.currentTarget.value)}
            onKeyDown={(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); } }} />
          <div class="tools">
            <button type="submit" class="primary" disabled={busy}>{busy ? "Running…" : "Run"}</button>
            <span class="muted">Ctrl + Enter</span>
          </div>
        </form>
        {error && <p class="notice" role="alert">{error}</p>}
        {tried && (
          <>
            <h2>{focus === null ? "Active latents" : <>Latent {focus} <button type="button" class="quiet" onClick={() => setFocus(null)}>show the number of latents</button></>} <small>choose a token</small></h2>
            <Tokens tokens={tried.tokens} first={first.map((x, k) => (tried.special[k] ? 0 : x / largest))} selected={at} onSelect={setPosition}
              values={(k) => (focus === null ? `${tried.codes[k].length} latents` : short(first[k]))} />
            <h2>At <code class="piece">{visible(tried.tokens[at])}</code> <small>{tried.codes[at].length} latents{tried.special[at] ? ", a special token, left out" : ""}</small></h2>
            <table class="plain codes">
              {tried.codes[at].slice(0, 16).map(([id, value]) => (
                <tr class={focus === id ? "chosen" : ""}>
                  <td class="figure">{short(value)}</td>
                  <td><LatentLink id={id} label={label(id)} /></td>
                  <td class="actions">
                    <button type="button" class="quiet" aria-pressed={focus === id} onClick={() => setFocus(focus === id ? null : id)}>where</button>
                    <button type="button" class="quiet" onClick={() => setEdits([...edits, { latent: id, value: 0, kind: "clamp" }])}>clamp to 0</button>
                    <button type="button" class="quiet" onClick={() => setEdits([...edits, { latent: id, value, kind: "add" }])}>double</button>
                  </td>
                </tr>
              ))}
            </table>
          </>
        )}
      </section>
      <div class="panels">
        <section>
          <h2>Edits</h2>
          {edits.map((edit, k) => (
            <EditRow edit={edit} d_sae={overview.d_sae}
              onChange={(changed) => setEdits(edits.map((e, m) => (m === k ? changed : e)))}
              onRemove={() => setEdits(edits.filter((_, m) => m !== k))} />
          ))}
          <div class="tools">
            <button type="button" onClick={() => setEdits([...edits, { latent: focus ?? 0, value: 0, kind: "clamp" }])}>Add an edit</button>
            {overview.written.length > 1 && (
              <label>at <select value={hook ?? ""} onChange={(event) => setQuery({ at: event.currentTarget.value })}>
                <option value="">all hook points</option>
                {overview.written.map((h) => <option value={h}>{overview.hooks[h]}</option>)}
              </select></label>
            )}
          </div>
          <p class="muted small">At every token but special ones. What the dictionary does not reconstruct is put back, so that without an edit the model is unchanged.</p>
        </section>
        {tried && <NextToken tried={tried} at={at} edited={edits.length > 0} />}
      </div>
    </div>
  );
}

interface EditRowProps {
  edit: Edit;
  d_sae: number;
  onChange: (edit: Edit) => void;
  onRemove: () => void;
}

function EditRow({ edit, d_sae, onChange, onRemove }: EditRowProps) {
  return (
    <div class="edit">
      <select value={edit.kind} aria-label="Kind" onChange={(event) => onChange({ ...edit, kind: event.currentTarget.value as Edit["kind"] })}>
        <option value="clamp">clamp</option><option value="add">add to</option>
      </select>
      <NumberField label="Latent" value={edit.latent} min={0} max={d_sae - 1} onChange={(latent) => onChange({ ...edit, latent })} />
      <span>{edit.kind === "clamp" ? "to" : "by"}</span>
      <NumberField label="Value" value={edit.value} step="any" onChange={(value) => onChange({ ...edit, value })} />
      <button type="button" class="quiet" aria-label="Remove" onClick={onRemove}>✕</button>
    </div>
  );
}

interface NumberFieldProps {
  label: string;
  value: number;
  onChange: (value: number) => void;
  min?: number;
  max?: number;
  step?: string;
}

/** What is typed stays while answers to earlier changes come in; it counts once the field is left. */
function NumberField({ label, value, onChange, ...limits }: NumberFieldProps) {
  const [text, setText] = useState(String(value));
  useEffect(() => setText(String(value)), [value]);
  return (
    <input type="number" aria-label={label} value={text} {...limits}
      onInput={(event) => setText(event.currentTarget.value)}
      onChange={(event) => onChange(Number(event.currentTarget.value))} />
  );
}

function NextToken({ tried, at, edited }: { tried: Tried; at: number; edited: boolean }) {
  const rows = tried.next[at].flatMap(([token, before, after]) => [
    { token: visible(token), name: "model", p: before },
    ...(edited ? [{ token: visible(token), name: "edited", p: after }] : []),
  ]);
  return (
    <section>
      <h2>Next token <small>after {visible(tried.tokens[at])}</small></h2>
      <Chart
        label="Probabilities of the next token, without and with the edits"
        of={[tried, at, edited]}
        options={() => ({
          height: 36 + tried.next[at].length * (edited ? 30 : 20), marginLeft: 110, marginTop: 2, marginBottom: 38,
          x: { label: "probability", grid: true, ticks: 4 },
          y: { axis: null, domain: edited ? ["model", "edited"] : ["model"] },
          fy: { label: null, domain: tried.next[at].map(([token]) => visible(token)), padding: 0.15, axis: "left" as const },
          color: { domain: ["model", "edited"], range: [COLOURS.blue, COLOURS.orange], legend: edited },
          marks: [Plot.barX(rows, { x: "p", y: "name", fy: "token", fill: "name", title: (d: typeof rows[0]) => `${d.name}: ${d.p.toFixed(4)}` }), Plot.ruleX([0])],
        })}
      />
      {edited && <p class="muted small" data-testid="divergence">Kullback–Leibler divergence {short(tried.divergence[at])} nats here, {short(tried.divergence.reduce((a, b) => a + b, 0) / tried.divergence.length)} on average over the text.</p>}
    </section>
  );
}

import { useEffect, useRef } from "preact/hooks";
import { loadMode, loadOverview, useData } from "./data";
import { LatentPage } from "./pages/LatentPage";
import { ModelsPage } from "./pages/ModelsPage";
import { OverviewPage } from "./pages/OverviewPage";
import { PairPage } from "./pages/PairPage";
import { TryPage } from "./pages/TryPage";
import { go, latentHref, pairHref, useRoute, wanted } from "./router";

const KEYS: [string, string][] = [
  ["/", "search the latents"],
  ["g", "go to a latent, or to a pair: “12 34”"],
  ["j / k", "next, previous latent"],
  ["o, t, m", "overview, try it, models"],
  ["?", "these keys"],
];

export function App() {
  const { path, query } = useRoute();
  const [overview, error] = useData(loadOverview, ["overview"]);
  const [mode] = useData(loadMode, ["mode"]);
  const help = useRef<HTMLDialogElement>(null);
  const jump = useRef<HTMLInputElement>(null);
  const page = path[0] ?? "overview";

  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.key === "Escape") target.blur();
      const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      const actions: Record<string, () => void> = {
        "?": () => help.current?.showModal(),
        g: () => jump.current?.focus(),
        o: () => go("#/"),
        t: () => mode?.served && go("#/try"),
        m: () => overview?.models && go("#/models"),
        "/": () => {
          wanted.search = page !== "overview";
          if (wanted.search) go("#/");
          else document.getElementById("search")?.focus();
        },
      };
      const step = { j: 1, k: -1 }[event.key];
      if (step && page === "latent" && overview) {
        const next = Number(path[1]) + step;
        if (next >= 0 && next < overview.d_sae) go(latentHref(next));
      } else if (event.key in actions) {
        event.preventDefault();
        actions[event.key]();
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });

  useEffect(() => {
    const places = { latent: `Latent ${path[1]}`, pair: `${path[1]} × ${path[2]}`, try: "Try it" };
    const place = places[page as keyof typeof places];
    document.title = [place, overview?.name ?? "Explorer"].filter(Boolean).join(" · ");
  }, [path.join("/"), overview]);

  if (error) return <p class="notice">The data cannot be read: {error.message}</p>;
  if (!overview || !mode) return <p class="notice">Loading…</p>;

  const link = (name: string, href: string, text: string) => (
    <a href={href} aria-current={page === name ? "page" : undefined}>{text}</a>
  );
  return (
    <>
      <header class="bar">
        <a class="name" href="#/">{overview.name}</a>
        <nav>
          {link("overview", "#/", "Overview")}
          {overview.models && link("models", "#/models", "Models")}
          {mode.served && link("try", "#/try", "Try it")}
        </nav>
        <form
          class="jump"
          onSubmit={(event) => {
            event.preventDefault();
            const [i, j] = jump.current!.value.match(/\d+/g) ?? [];
            if (i) go(j ? pairHref(Number(i), Number(j)) : latentHref(Number(i)));
            jump.current!.blur();
          }}
        >
          <input ref={jump} inputMode="numeric" placeholder="latent, or pair" aria-label="Go to a latent or a pair" />
        </form>
        <button type="button" class="quiet" aria-label="Keys" onClick={() => help.current?.showModal()}>?</button>
      </header>
      <main>
        {page === "overview" && <OverviewPage overview={overview} query={query} />}
        {page === "latent" && <LatentPage overview={overview} id={Number(path[1])} query={query} />}
        {page === "pair" && <PairPage overview={overview} i={Number(path[1])} j={Number(path[2])} />}
        {page === "models" && <ModelsPage overview={overview} query={query} />}
        {page === "try" && <TryPage overview={overview} served={mode.served} query={query} />}
      </main>
      <dialog ref={help} onClick={() => help.current?.close()}>
        <h2>Keys</h2>
        <table>
          {KEYS.map(([key, text]) => (
            <tr><td><kbd>{key}</kbd></td><td>{text}</td></tr>
          ))}
        </table>
        <p><a href="LICENSES.txt">Licences of what these pages are made with</a></p>
      </dialog>
    </>
  );
}

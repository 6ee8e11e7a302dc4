import { useEffect, useState } from "preact/hooks";
import type {
  Edit, Explanation, Latent, LatentFile, Mode, Overview, Pair, PairFile, Table, Tried,
} from "./types";

const loading = new Map<string, Promise<unknown>>();

/** A data file, fetched once. */
export function load<T>(path: string): Promise<T> {
  let promise = loading.get(path) as Promise<T> | undefined;
  if (!promise) {
    promise = fetchJson<T>(path);
    loading.set(path, promise);
    promise.catch(() => loading.delete(path));
  }
  return promise;
}

async function fetchJson<T>(path: string): Promise<T> {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  // Some servers decompress on the way what others send as it is.
  const compressed = bytes[0] === 0x1f && bytes[1] === 0x8b;
  if (!compressed) return JSON.parse(new TextDecoder().decode(bytes));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

export const loadOverview = () => load<Overview>("data/overview.json.gz");
export const loadTable = () => load<Table>("data/latents.json.gz");
export const loadMode = () => load<Mode>("data/mode.json");

export async function loadExplanations(): Promise<Record<string, Explanation>> {
  if (!(await loadMode()).explanations) return {};
  const file = await load<{ latents: Record<string, Explanation> }>("data/explanations.json");
  return file.latents;
}

async function shard<T>(kind: string, latent: number): Promise<T> {
  const { latents_per_file } = await loadOverview();
  const number = Math.floor(latent / latents_per_file);
  return load<T>(`data/${kind}/${String(number).padStart(5, "0")}.json.gz`);
}

export interface LatentData {
  latent: Latent;
  strings: string[];
}

export async function loadLatent(id: number): Promise<LatentData> {
  const overview = await loadOverview();
  if (!(id >= 0 && id < overview.d_sae)) {
    throw new Error(`There is no latent ${id}: they are numbered from 0 to ${overview.d_sae - 1}.`);
  }
  const file = await shard<LatentFile>("latents", id);
  return { latent: file.latents[id % overview.latents_per_file], strings: file.strings };
}

export interface PairData {
  pair: Pair;
  strings: string[];
}

/** A pair that is some latent's partner; any other one from the server, if there is a server. */
export async function loadPair(i: number, j: number): Promise<PairData> {
  for (const first of [i, j]) {
    const file = await shard<PairFile>("pairs", first);
    const pair = file.pairs.find((p) => (p.i === i && p.j === j) || (p.i === j && p.j === i));
    if (pair) return { pair, strings: file.strings };
  }
  if (!(await loadMode()).served) {
    throw new Error(
      `Latents ${i} and ${j} are not among each other's strongest partners, and these pages are ` +
        "static: 'python -m sae_lens_poly explore' on the dictionary computes any pair.",
    );
  }
  const file = await load<PairFile>(`api/pair/${i}/${j}`);
  return { pair: file.pairs[0], strings: file.strings };
}

export async function tryText(text: string, edits: Edit[], hook: number | null): Promise<Tried> {
  const response = await fetch("api/try", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text, edits, hook }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

/** What a promise gives, null until then, and its error. */
export function useData<T>(get: () => Promise<T>, key: unknown[]): [T | null, Error | null] {
  const [found, setFound] = useState<{ key: string; value: T | null; error: Error | null }>();
  const now = JSON.stringify(key);
  useEffect(() => {
    let current = true;
    get().then(
      (value) => current && setFound({ key: now, value, error: null }),
      (error) => current && setFound({ key: now, value: null, error }),
    );
    return () => {
      current = false;
    };
  }, [now]);
  return found?.key === now ? [found.value, found.error] : [null, null];
}

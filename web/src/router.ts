import { useEffect, useState } from "preact/hooks";

// What is shown is in the fragment, so that every view has an address on any web server.
export interface Route {
  path: string[];
  query: URLSearchParams;
}

function read(): Route {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean), query: new URLSearchParams(query) };
}

export function useRoute(): Route {
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const update = () => setRoute(read());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return route;
}

export const latentHref = (id: number) => `#/latent/${id}`;
export const pairHref = (i: number, j: number) => `#/pair/${i}/${j}`;

export function go(href: string): void {
  location.hash = href.replace(/^#/, "");
}

/** Change the query of the address without a new entry in the history. */
export function setQuery(changes: Record<string, string | null>): void {
  const { path, query } = read();
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(key);
    else query.set(key, value);
  }
  const text = query.toString();
  history.replaceState(null, "", `#/${path.join("/")}${text ? `?${text}` : ""}`);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** What the next page does once it is there. */
export const wanted = { search: false };

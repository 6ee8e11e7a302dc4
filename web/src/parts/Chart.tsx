import type { MarkOptions, PlotOptions } from "@observablehq/plot";
import * as Plot from "@observablehq/plot";
import { useEffect, useRef, useState } from "preact/hooks";

export { Plot };
export type { MarkOptions };

// Okabe and Ito's colours, told apart with any colour vision; the style sheet has them.
export const COLOURS = {
  blue: "var(--blue)",
  orange: "var(--orange)",
  green: "var(--green)",
  grey: "var(--muted)",
};

interface Props {
  options: (width: number) => PlotOptions;
  /** Draw again when one of these changes. */
  of: unknown[];
  label: string;
}

/** A plot as wide as its place. */
export function Chart({ options, of, label }: Props) {
  const place = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry.contentRect.width)));
    observer.observe(place.current!);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (!width) return;
    const plot = Plot.plot({ width, style: { background: "transparent" }, ...options(width) });
    place.current!.replaceChildren(plot);
  }, [width, ...of]);
  return <div class="chart" ref={place} role="img" aria-label={label} />;
}

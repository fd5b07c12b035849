/**
 * Draws `chart.svg` from the results of `bench` and `bench:curves`.
 *
 *     deno task bench --json bench/results/bench.json
 *     deno task bench:curves --json bench/results/curves.json
 *     deno task chart
 */
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";
import bench from "./results/bench.json" with { type: "json" };
import results from "./results/curves.json" with { type: "json" };

const { cpu, runtime } = bench;
// Without curl its pair was not measured.
const ratios: typeof bench.ratios | Omit<typeof bench.ratios, "pipe_vs_curl"> =
  bench.ratios;
const { curves } = results;

const throughput = Object.entries({
  "loopback, undici": curves["capacity, 0 ms, undici"],
  "loopback": curves["capacity, 0 ms"],
  "10 ms away": curves["capacity, 10 ms"],
  "50 ms away": curves["capacity, 50 ms"],
  "50 ms, 8 at once": curves["capacity, 50 ms, 8 at once"],
  "100 ms away": curves["capacity, 100 ms"],
}).flatMap(([way, points]) =>
  points.map(({ x, rate }) => ({ way, capacity: x / 1024, rate }))
);
const ways = [...new Set(throughput.map(({ way }) => way))];

/** The labels stand at different places (`at`), because two lines are close. */
const peers = [
  {
    peer: "one streaming fetch",
    rate: ratios.file_vs_fetch_stream.peer,
    side: "above",
    end: 120,
  },
  ..."pipe_vs_curl" in ratios
    ? [{
      peer: "curl -T -",
      rate: ratios.pipe_vs_curl.peer,
      side: "below",
      end: 120,
    }]
    : [],
  {
    peer: "a fetch for each 64 B",
    rate: 64e-6 * ratios.records_vs_fetch.peer,
    side: "above",
    end: 376,
  },
];

const writes = [
  { way: "Uint8Array.set", ns: ratios.write64_vs_set.peer },
  { way: "StreamBuffer", ns: ratios.write64_vs_set.ours },
  { way: "sonic-boom", ns: ratios.write64_vs_sonic_boom.peer },
  { way: "WritableStream", ns: ratios.write64_vs_writer.peer },
];

/**
 * Each colour on a light page and on a dark one. The light ones must differ from
 * each other, as the dark ones replace them by value.
 */
const COLOURS = {
  background: ["#ffffff", "#0d1117"],
  text: ["#1f2328", "#e6edf3"],
  others: ["#59636e", "#9198a1"],
  axis: ["#818b98", "#656c76"],
  grid: ["#eaeef2", "#21262d"],
  fast: ["#cf222e", "#ff7b72"],
  loopback: ["#0969da", "#58a6ff"],
  near: ["#bc4c00", "#f0883e"],
  far: ["#8250df", "#bc8cff"],
  overlapping: ["#9a6700", "#d29922"],
  farthest: ["#1a7f37", "#56d364"],
} as const;

function light(name: keyof typeof COLOURS): string {
  return COLOURS[name][0];
}

/** The names of the peers on one side of their lines. */
function namesOf(side: "above" | "below") {
  return {
    data: { values: peers.filter((peer) => peer.side === side) },
    mark: {
      type: "text",
      align: "right",
      baseline: side === "above" ? "bottom" : "top",
      dy: side === "above" ? -2 : 3,
      fontSize: 10,
      color: light("others"),
    },
    encoding: {
      x: { field: "end", type: "quantitative", scale: null },
      y: { field: "rate", type: "quantitative" },
      text: { field: "peer" },
    },
  } as const;
}

const spec: TopLevelSpec = {
  background: light("background"),
  padding: 12,
  config: {
    font: "system-ui, sans-serif",
    axis: {
      domainColor: light("axis"),
      gridColor: light("grid"),
      labelColor: light("text"),
      tickColor: light("axis"),
      titleColor: light("text"),
      titleFontWeight: "normal",
    },
    legend: { labelColor: light("text"), titleColor: light("text") },
    title: { color: light("text") },
    view: { stroke: light("grid") },
  },
  title: {
    text: `${runtime}, ${cpu}`,
    anchor: "start",
    color: light("others"),
    fontSize: 11,
    fontWeight: "normal",
    offset: 12,
  },
  hconcat: [
    {
      width: 380,
      height: 300,
      title: "Throughput (dashed: others, on loopback)",
      layer: [
        {
          data: { values: peers },
          mark: { type: "rule", strokeDash: [4, 4], color: light("others") },
          encoding: { y: { field: "rate", type: "quantitative" } },
        },
        namesOf("above"),
        namesOf("below"),
        {
          data: { values: throughput },
          mark: { type: "line", point: true },
          encoding: {
            x: {
              field: "capacity",
              type: "quantitative",
              scale: { type: "log", base: 2, nice: false },
              axis: {
                title: "capacity, KiB",
                values: [8, 32, 128, 512, 2048, 8192],
              },
            },
            y: {
              field: "rate",
              type: "quantitative",
              scale: { type: "log", domain: [0.05, 5000], nice: false },
              axis: { title: "MB/s", format: "~g", tickCount: 5 },
            },
            color: {
              field: "way",
              type: "nominal",
              sort: ways,
              scale: {
                range: [
                  light("fast"),
                  light("loopback"),
                  light("near"),
                  light("far"),
                  light("overlapping"),
                  light("farthest"),
                ],
              },
              legend: {
                title: "StreamBuffer",
                orient: "bottom",
                columns: 3,
                titleOrient: "left",
              },
            },
          },
        },
      ],
    },
    {
      width: 260,
      height: 300,
      title: {
        text: "A write of 64 bytes, not awaited",
        subtitle: "(WritableStream: its writer's ready is awaited)",
        subtitleColor: light("others"),
        subtitleFontSize: 10,
      },
      data: { values: writes },
      layer: [
        { mark: { type: "bar", color: light("loopback") } },
        {
          mark: { type: "text", align: "left", dx: 3, color: light("text") },
          encoding: {
            text: { field: "ns", type: "quantitative", format: ".0f" },
          },
        },
      ],
      encoding: {
        y: { field: "way", type: "nominal", sort: null, axis: { title: null } },
        x: {
          field: "ns",
          type: "quantitative",
          axis: { title: "ns" },
          scale: { domain: [0, 1.1 * Math.max(...writes.map(({ ns }) => ns))] },
        },
      },
    },
  ],
};

const view = new View(parse(compile(spec).spec), { renderer: "none" });
const svg = await view.toSVG();
await Deno.writeTextFile(
  new URL("chart.svg", import.meta.url),
  svg.replace(/^<svg[^>]*>/, (tag) => `${tag}<style>${darkRules()}</style>`),
);

/** A rule overrides the colour in an element's attribute. */
function darkRules(): string {
  const rules = Object.values(COLOURS).flatMap(([light, dark]) => [
    `[fill="${light}"]{fill:${dark}}`,
    `[stroke="${light}"]{stroke:${dark}}`,
  ]);
  return `@media (prefers-color-scheme: dark){${rules.join("")}}`;
}

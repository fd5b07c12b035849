/**
 * Draws the chart of the README from what `bench` and `bench:curves` measured.
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
// A run without curl has no such pair.
const ratios: typeof bench.ratios | Omit<typeof bench.ratios, "file_vs_curl"> =
  bench.ratios;
const { curves } = results;

const throughput = [0, 10, 50, 100].flatMap((delay) => {
  const name = `capacity, ${delay} ms` as keyof typeof curves;
  const way = delay === 0 ? "loopback" : `${delay} ms away`;
  return curves[name].map(({ x, rate }) => ({ way, capacity: x / 1024, rate }));
});
const ways = [...new Set(throughput.map(({ way }) => way))];

/** With where their names stand: the first two are close. */
const peers = [
  {
    peer: "one streaming fetch",
    rate: ratios.file_vs_fetch_stream.peer,
    at: 4,
  },
  ..."file_vs_curl" in ratios
    ? [{ peer: "curl -T -", rate: ratios.file_vs_curl.peer, at: 240 }]
    : [],
  {
    peer: "a fetch for each 64 B",
    rate: 64e-6 * ratios.records_vs_fetch.peer,
    at: 240,
  },
];

const writes = [
  ["Uint8Array.set", ratios.write64_vs_set.peer],
  ["StreamBuffer", ratios.write64_vs_set.ours],
  ["sonic-boom", ratios.write64_vs_sonic_boom.peer],
  ["WritableStream", ratios.write64_vs_writer.peer],
].map(([way, ns]) => ({ way, ns }));

const spec: TopLevelSpec = {
  background: "white",
  config: {
    font: "system-ui, sans-serif",
    axis: { gridColor: "#eee", titleFontWeight: "normal" },
  },
  title: { text: `${runtime}, ${cpu}`, fontWeight: "normal", fontSize: 11 },
  hconcat: [
    {
      width: 380,
      height: 300,
      title: "Throughput (dashed: others, on loopback)",
      layer: [
        {
          data: { values: peers },
          mark: { type: "rule", strokeDash: [4, 4], color: "#888" },
          encoding: { y: { field: "rate", type: "quantitative" } },
        },
        {
          data: { values: peers },
          mark: {
            type: "text",
            align: "left",
            baseline: "bottom",
            dy: -2,
            fontSize: 10,
            color: "#666",
          },
          encoding: {
            x: { field: "at", type: "quantitative", scale: null },
            y: { field: "rate", type: "quantitative" },
            text: { field: "peer" },
          },
        },
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
              scale: { type: "log", domain: [0.05, 3000], nice: false },
              axis: { title: "MB/s", format: "~g", tickCount: 5 },
            },
            color: {
              field: "way",
              type: "nominal",
              sort: ways,
              legend: {
                title: "StreamBuffer",
                orient: "bottom",
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
      title: "A write of 64 bytes",
      data: { values: writes },
      layer: [
        { mark: "bar" },
        {
          mark: { type: "text", align: "left", dx: 3 },
          encoding: {
            text: { field: "ns", type: "quantitative", format: ".0f" },
          },
        },
      ],
      encoding: {
        y: { field: "way", type: "nominal", sort: null, axis: { title: null } },
        x: { field: "ns", type: "quantitative", axis: { title: "ns" } },
      },
    },
  ],
};

const view = new View(parse(compile(spec).spec), { renderer: "none" });
await Deno.writeTextFile(
  new URL("chart.svg", import.meta.url),
  await view.toSVG(),
);

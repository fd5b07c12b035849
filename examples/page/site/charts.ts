/// <reference lib="dom" />
/** The two charts of bytes over time. */
import uPlot from "uplot";
import { formatSize } from "./format.ts";
import { type FaultSpan, type History, WINDOW } from "./history.ts";
import { MEMORY_LIMIT } from "./recorder.ts";
import { colour, FONT, FONT_FAMILY } from "./theme.ts";

/** The width of the labels on the left, and of the margin on the right, in px. */
export const LEFT = 64;
export const RIGHT = 12;
/** Where there are labels of time, in seconds before now. */
export const TICKS = [30, 20, 10, 0];

/** "30 s", "now". */
export function labelOf(tick: number): string {
  return tick === 0 ? "now" : `−${tick} s`;
}

interface Line {
  /** A colour of the theme. */
  readonly name: string;
  readonly fill?: boolean;
  readonly dash?: number[];
}

/** A chart of what was last. */
class Chart {
  readonly #element: HTMLElement;
  readonly #plot: uPlot;
  #now = 0;
  #faults: readonly FaultSpan[] = [];

  /**
   * @param max The highest value that there may be; by default that of the data.
   */
  constructor(element: HTMLElement, lines: readonly Line[], max?: number) {
    this.#element = element;
    const grid = { stroke: () => colour("line"), width: 1 };
    const axis = {
      ...{ font: FONT, grid, ticks: { show: false } },
      stroke: () => colour("muted"),
    };
    this.#plot = new uPlot(
      {
        ...this.#size(),
        padding: [10, RIGHT, 0, 0],
        legend: { show: false },
        cursor: { show: false },
        scales: {
          x: {
            time: false,
            range: () => [this.#now - WINDOW / 1_000, this.#now],
          },
          y: {
            range: (_, __, highest) => [0, (max ?? niceAbove(highest)) * 1.02],
          },
        },
        axes: [
          {
            ...axis,
            size: 24,
            gap: 4,
            splits: () => TICKS.map((tick) => this.#now - tick),
            values: () => TICKS.map(labelOf),
          },
          {
            ...axis,
            size: LEFT,
            splits: (_, __, ___, highest) => {
              const top = highest / 1.02;
              return [0, top / 2, top];
            },
            values: (_, splits) => splits.map(formatSize),
          },
        ],
        series: [
          {},
          ...lines.map(({ name, fill, dash }) => ({
            ...{ stroke: () => colour(name), width: fill ? 1 : 2 },
            ...{ points: { show: false }, ...(dash && { dash }) },
            ...(fill && { fill: () => colour(name) }),
          })),
        ],
        hooks: { drawClear: [(plot) => this.#drawFaults(plot)] },
      },
      [[], ...lines.map(() => [])],
      element,
    );
  }

  /** Draws the values of each line, which end now. Times in ms. */
  draw(
    now: number,
    times: number[],
    values: number[][],
    faults: readonly FaultSpan[],
  ): void {
    this.#now = now / 1_000;
    this.#faults = faults;
    this.#plot.setData([times.map((time) => time / 1_000), ...values]);
  }

  /** Takes the size of its element. */
  resize(): void {
    this.#plot.setSize(this.#size());
  }

  #size(): { width: number; height: number } {
    const { clientWidth, clientHeight } = this.#element;
    return { width: clientWidth, height: clientHeight };
  }

  /** Shades the times in which the server was broken. */
  #drawFaults({ ctx, bbox, valToPos }: uPlot): void {
    ctx.save();
    ctx.textAlign = "left";
    ctx.font = `${12 * devicePixelRatio}px ${FONT_FAMILY}`;
    for (const { fault, start, end } of this.#faults) {
      const from = valToPos(start / 1_000, "x", true);
      const to = valToPos(
        end === undefined ? this.#now : end / 1_000,
        "x",
        true,
      );
      const left = Math.max(from, bbox.left);
      const width = to - left;
      if (width <= 0) continue;
      ctx.fillStyle = colour("fault");
      ctx.fillRect(left, bbox.top, width, bbox.height);
      const margin = 4 * devicePixelRatio;
      if (ctx.measureText(fault).width + 2 * margin > width) continue;
      ctx.fillStyle = colour("failed");
      ctx.fillText(fault, left + margin, bbox.top + 4 * margin);
    }
    ctx.restore();
  }
}

/** Both charts. */
export class Charts {
  readonly #rate: Chart;
  readonly #memory: Chart;

  constructor(rate: HTMLElement, memory: HTMLElement) {
    this.#rate = new Chart(rate, [
      { name: "accepted" },
      { name: "delivered", dash: [6, 3] },
    ]);
    // Stacked: the highest is drawn first, and the others over it.
    this.#memory = new Chart(memory, [
      { name: "queued", fill: true },
      { name: "held", fill: true },
      { name: "flight", fill: true },
      { name: "muted", dash: [6, 4] },
    ], MEMORY_LIMIT);
  }

  draw({ now, samples, faults }: History): void {
    const times = samples.map(({ time }) => time);
    this.#rate.draw(now, times, [
      samples.map(({ acceptedRate }) => acceptedRate),
      samples.map(({ deliveredRate }) => deliveredRate),
    ], faults);
    this.#memory.draw(now, times, [
      samples.map(({ held, queued }) => held + queued),
      samples.map(({ held }) => held),
      samples.map(({ flight }) => flight),
      samples.map(() => MEMORY_LIMIT),
    ], faults);
  }

  resize(): void {
    this.#rate.resize();
    this.#memory.resize();
  }
}

/** The next power of two: the labels are 0, half of it, and all. At least 1 KiB. */
function niceAbove(value: number): number {
  let limit = 1_024;
  while (limit < value) limit *= 2;
  return limit;
}

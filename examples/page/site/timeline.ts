/// <reference lib="dom" />
/** The latest requests, one mark each, and what the server did. */
import { labelOf, LEFT, RIGHT, TICKS } from "./charts.ts";
import { formatBytes, formatSeconds } from "./format.ts";
import { type History, WINDOW } from "./history.ts";
import { type Attempt, LOST, type Recorder } from "./recorder.ts";
import type { Fate } from "./remote.ts";
import { colour, FONT } from "./theme.ts";

/** Where the lanes are, in px from the top. */
const PAGE_LANE = { top: 22, height: 26 };
const SERVER_LANE = { top: 66, height: 14 };
const AXIS_TOP = 106;
/** A mark is at least as wide, in px. */
const MIN_WIDTH = 2;
/** Labels that would be closer to each other are left out, in px. */
const LABEL_GAP = 4;

/** A canvas on which an attempt can be chosen, by pointing at it or by arrow keys. */
export class Timeline {
  readonly #element: HTMLElement;
  readonly #detail: HTMLElement;
  readonly #canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  #recorder: Recorder | undefined;
  #history: History | undefined;
  #chosen: Attempt | undefined;
  #now = 0;
  #width = 0;
  #height = 0;

  constructor(element: HTMLElement, detail: HTMLElement) {
    this.#element = element;
    this.#detail = detail;
    this.#canvas = element.querySelector("canvas")!;
    this.#context = this.#canvas.getContext("2d")!;
    element.addEventListener("pointermove", (event) => this.#point(event));
    element.addEventListener("pointerdown", (event) => this.#point(event));
    element.addEventListener("pointerleave", () => this.#choose(undefined));
    element.addEventListener("keydown", (event) => this.#press(event));
    this.#choose(undefined);
  }

  /** Shows another stream. */
  reset(recorder: Recorder, history: History): void {
    this.#recorder = recorder;
    this.#history = history;
    this.#choose(undefined);
  }

  resize(): void {
    const { clientWidth, clientHeight } = this.#element;
    this.#width = clientWidth;
    this.#height = clientHeight;
    this.#canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.#canvas.height = Math.round(clientHeight * devicePixelRatio);
  }

  draw(): void {
    if (!this.#recorder || !this.#history) return;
    const context = this.#context;
    this.#now = this.#history.now;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.#width, this.#height);
    context.font = FONT;
    this.#drawFaults();
    this.#drawFrame();
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, this.#width - LEFT - RIGHT / 2, this.#height);
    context.clip();
    this.#drawAttempts();
    this.#drawEvents();
    context.restore();
    this.#element.setAttribute(
      "aria-valuemax",
      `${this.#recorder.attempts.length}`,
    );
    if (this.#chosen) this.#describe(this.#chosen);
  }

  // -- Drawing --

  #x(time: number): number {
    const width = this.#width - LEFT - RIGHT;
    return LEFT + width * (1 - (this.#now - time) / WINDOW);
  }

  #drawFaults(): void {
    const context = this.#context;
    context.fillStyle = colour("fault");
    for (const { start, end = this.#now } of this.#history!.faults) {
      const left = Math.max(this.#x(start), LEFT);
      const right = this.#x(end);
      if (right > left) {
        context.fillRect(left, 0, right - left, AXIS_TOP - 8);
      }
    }
  }

  #drawFrame(): void {
    const context = this.#context;
    context.fillStyle = colour("muted");
    context.textAlign = "right";
    const middle = ({ top, height }: typeof PAGE_LANE) => top + height / 2 + 4;
    context.fillText("Sent", LEFT - 8, middle(PAGE_LANE));
    context.fillText("Server", LEFT - 8, middle(SERVER_LANE));
    context.textAlign = "center";
    for (const tick of TICKS) {
      const x = this.#x(this.#now - tick * 1_000);
      const label = labelOf(tick);
      const half = context.measureText(label).width / 2;
      const centre = Math.min(x, this.#width - half);
      context.fillText(label, centre, AXIS_TOP + 8);
      context.fillStyle = colour("line");
      context.fillRect(Math.round(x), 0, 1, AXIS_TOP - 8);
      context.fillStyle = colour("muted");
    }
  }

  #drawAttempts(): void {
    const context = this.#context;
    const { top, height } = PAGE_LANE;
    let labelEnd = -Infinity;
    context.textAlign = "left";
    for (const attempt of this.#visible()) {
      const left = this.#x(attempt.start);
      const end = attempt.end ?? this.#now;
      const width = Math.max(this.#x(end) - left, MIN_WIDTH);
      const { outcome, isDelivered, retryIn } = attempt;
      const failed = outcome !== undefined && !isDelivered;
      const name = failed ? "failed" : isDelivered ? "delivered" : "flight";
      context.fillStyle = colour(name);
      context.fillRect(left, top, width, height);
      if (retryIn !== undefined) {
        context.fillStyle = colour("muted");
        const until = Math.min(end + retryIn, this.#now);
        for (let x = left + width + 2; x < this.#x(until) - 1; x += 5) {
          context.fillRect(x, top + height / 2 - 1, 3, 2);
        }
      }
      if (failed && left > labelEnd + LABEL_GAP) {
        const label = outcome === LOST ? "lost" : outcome;
        const size = context.measureText(label).width;
        const x = Math.min(left, this.#width - size);
        context.fillStyle = colour("failed");
        context.fillText(label, x, top - 6);
        labelEnd = x + size;
      }
      if (attempt === this.#chosen) {
        context.strokeStyle = colour("text");
        context.lineWidth = 2;
        context.strokeRect(left - 3, top - 3, width + 6, height + 6);
      }
    }
  }

  #drawEvents(): void {
    const { top, height } = SERVER_LANE;
    const middle = top + height / 2;
    const start = this.#now - WINDOW;
    for (const { time, fate } of this.#history!.events) {
      if (time < start) continue;
      MARKS[fate](this.#context, this.#x(time), middle);
    }
  }

  // -- Choosing --

  #visible(): Attempt[] {
    const start = this.#now - WINDOW;
    const { attempts } = this.#recorder!;
    const first = attempts.findIndex(({ end = Infinity }) => end >= start);
    return first < 0 ? [] : attempts.slice(first);
  }

  #point({ offsetX }: PointerEvent): void {
    const distance = ({ start, end = this.#now }: Attempt) => {
      const [left, right] = [this.#x(start), this.#x(end)];
      return Math.max(left - offsetX, offsetX - right, 0);
    };
    let nearest: Attempt | undefined;
    for (const attempt of this.#visible()) {
      if (!nearest || distance(attempt) <= distance(nearest)) nearest = attempt;
    }
    this.#choose(nearest);
  }

  #press(event: KeyboardEvent): void {
    const visible = this.#visible();
    const last = visible.length - 1;
    const index = this.#chosen ? visible.indexOf(this.#chosen) : last + 1;
    const target = {
      ArrowLeft: Math.max(index - 1, 0),
      ArrowDown: Math.max(index - 1, 0),
      ArrowRight: Math.min(index + 1, last),
      ArrowUp: Math.min(index + 1, last),
      Home: 0,
      End: last,
      Escape: -1,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#choose(visible[target]);
  }

  #choose(attempt: Attempt | undefined): void {
    this.#chosen = attempt;
    if (attempt) return this.#describe(attempt);
    this.#element.setAttribute("aria-valuetext", "none chosen");
    this.#detail.textContent =
      "Point at a request, or focus the chart and press ← or →, to read about it.";
  }

  #describe(attempt: Attempt): void {
    const text = describe(attempt, this.#now);
    const index = this.#recorder!.attempts.indexOf(attempt);
    this.#element.setAttribute("aria-valuenow", `${index + 1}`);
    this.#element.setAttribute("aria-valuetext", text);
    this.#detail.textContent = text;
  }
}

/** "Batch 7, attempt 2: 503 after 0.1 s, 32.0 KiB; retried after 0.4 s". */
function describe(attempt: Attempt, now: number): string {
  const { sequence, number, bytes, start, end = now, retryIn } = attempt;
  const { outcome = "in flight" } = attempt;
  const took = formatSeconds(end - start);
  const retry = retryIn === undefined
    ? ""
    : `; retried after ${formatSeconds(retryIn)}`;
  return `Batch ${sequence}, attempt ${number}, ${
    formatBytes(bytes)
  }: ${outcome} after ${took}${retry}.`;
}

type Draw = (context: CanvasRenderingContext2D, x: number, y: number) => void;

/** How each fate looks; they differ in more than their colours. */
const MARKS: Record<Fate, Draw> = {
  stored(context, x, y) {
    context.fillStyle = colour("delivered");
    context.fillRect(x - 1, y - 6, 2, 12);
  },
  repeat(context, x, y) {
    context.strokeStyle = colour("accepted");
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, 4, 0, 2 * Math.PI);
    context.stroke();
  },
  silent(context, x, y) {
    context.strokeStyle = colour("flight");
    context.lineWidth = 2;
    context.strokeRect(x - 3, y - 3, 6, 6);
  },
  refused: drawCross,
  dropped: drawCross,
};

function drawCross(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
): void {
  context.strokeStyle = colour("failed");
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(x - 3, y - 3);
  context.lineTo(x + 3, y + 3);
  context.moveTo(x + 3, y - 3);
  context.lineTo(x - 3, y + 3);
  context.stroke();
}

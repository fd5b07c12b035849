/// <reference lib="dom" />
/** The page: its controls, its figures, and one stream after another. */
import { Charts } from "./charts.ts";
import { clearComparison, compare } from "./comparison.ts";
import { element, show } from "./elements.ts";
import { showFigures } from "./figures.ts";
import { formatCount, formatSize } from "./format.ts";
import { Generator, MAX_RATE, positionOf, rateAt } from "./generator.ts";
import { History, SAMPLE_INTERVAL } from "./history.ts";
import {
  CAPACITY,
  CLOSE_TIMEOUT,
  randomId,
  Recorder,
  TIMEOUT,
} from "./recorder.ts";
import { type Fault, Remote, type StreamState } from "./remote.ts";
import { onColourChange } from "./theme.ts";
import { Timeline } from "./timeline.ts";
import { observeVisitor } from "./visitor.ts";

const DEFAULT_RATE = 1_000;
/** What the page that was left had written, for the one that comes after it. */
const LEFT_KEY = "stream-buffer-left";
/** How often to ask whether it has arrived. */
const MAX_LEFT_POLLS = 10;

const STATUS: Record<Fault, string> = {
  503:
    "The server responds with 503 to every request. Each batch is retried, with growing delays.",
  429:
    "The server responds with 429 and Retry-After: 5. No request is made before that has passed.",
  reset:
    "The server stores each batch, then cuts the connection. Retries are recognised by their keys.",
  silence: `The server does not respond. After ${
    TIMEOUT / 1_000
  } s an attempt times out, and is retried.`,
  refuse:
    "The server will refuse the next batch with 422. deadLetter takes it, and the stream continues.",
  away:
    "The server is away: every connection is cut. It comes back by itself after ten seconds.",
};

/** How often what moves is drawn if the visitor wants little motion, in samples. */
const CALM_SAMPLES = 5;

const DELIVERING = `The server is up. A request is made whenever ${
  formatSize(CAPACITY)
} are full, and at least twice a second.`;
const RECOVERING =
  "The server is up again. What the buffer holds is sent with the next attempt.";

/** A stream, from its start to its end. */
interface Session {
  readonly recorder: Recorder;
  readonly generator: Generator;
  readonly remote: Remote;
  readonly history: History;
  /** Ends what observes the visitor. */
  readonly visitor: AbortController;
  /** How the server was when it was last asked; `undefined` if it was silent. */
  server?: StreamState | undefined;
  phase: "open" | "closing" | "closed";
}

const faultButtons = [
  ...document.querySelectorAll<HTMLButtonElement>("[data-fault]"),
];
const finishButton = element<HTMLButtonElement>("finish");
const rateInput = element<HTMLInputElement>("rate");
const rateSlider = element<HTMLInputElement>("rate-slider");
const charts = new Charts(element("rate-chart"), element("memory-chart"));
const timeline = new Timeline(element("timeline"), element("detail"));
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** What the generator is to write, in records per second. */
let rate = 0;
setRate(DEFAULT_RATE);
let session = await start();
setUpControls();
void reportPreviousPage();
setInterval(tick, SAMPLE_INTERVAL);

// -- A stream --

async function start(): Promise<Session> {
  const id = randomId();
  const remote = new Remote(id);
  await remote.make();
  const recorder = new Recorder(id);
  const generator = new Generator(recorder, () => rate);
  const history = new History();
  const visitor = new AbortController();
  observeVisitor((record) => {
    show("last", `Last: ${JSON.stringify(record)}`);
    // The events of a page cannot wait. Those that are rejected are counted.
    recorder.write(record).catch(() => {});
  }, visitor.signal);
  void generator.run();
  timeline.reset(recorder, history);
  return { recorder, generator, remote, history, visitor, phase: "open" };
}

async function startAgain(): Promise<void> {
  const next = await start().catch(() => undefined);
  if (next === undefined) return; // poll() shows that there is no server
  session = next;
  show("finish", "Finish and compare");
  clearComparison();
}

async function finish(): Promise<void> {
  const { recorder, generator, history, visitor } = session;
  session.phase = "closing";
  finishButton.setAttribute("aria-disabled", "true");
  show("finish", "Closing …");
  generator.stop();
  visitor.abort();
  const ending = await recorder.finish();
  await poll();
  tick();
  session.phase = "closed";
  history.end();
  compare(recorder, ending, session.server);
  showStatus();
  show("finish", "Start again");
  finishButton.removeAttribute("aria-disabled");
  element("sum").scrollIntoView({ block: "nearest" });
}

/** Leaves a note for the page that comes after this one. */
function rememberStream(): void {
  const { recorder: { id, stats }, phase } = session;
  if (phase !== "open") return;
  const accepted = stats.bytesAccepted - stats.bytesDiverted;
  sessionStorage.setItem(LEFT_KEY, JSON.stringify({ id, accepted }));
}

/** Shows what arrived of the page before this one, whose requests outlive it. */
async function reportPreviousPage(): Promise<void> {
  const left = sessionStorage.getItem(LEFT_KEY);
  sessionStorage.removeItem(LEFT_KEY);
  if (left === null) return;
  const { id, accepted } = JSON.parse(left);
  const remote = new Remote(id);
  for (let polls = 0; polls < MAX_LEFT_POLLS; polls++) {
    const state = await remote.getState().catch(() => undefined);
    if (state === undefined) return; // the server was restarted
    show(
      "sum",
      `The page that was left had ${
        formatCount(accepted)
      } bytes accepted. The server has stored ${
        formatCount(state.bytes)
      } of them.`,
    );
    if (state.bytes >= accepted) return;
    await new Promise((resolve) => setTimeout(resolve, SAMPLE_INTERVAL));
  }
}

// -- Controls --

function setUpControls(): void {
  for (const button of faultButtons) {
    button.addEventListener("click", () => {
      const isPressed = button.getAttribute("aria-pressed") === "true";
      void setFault(isPressed ? undefined : button.dataset.fault as Fault);
    });
  }
  element("mend").addEventListener("click", () => void setFault(undefined));
  finishButton.addEventListener("click", () => {
    if (session.phase === "open") void finish();
    else if (session.phase === "closed") void startAgain();
  });
  rateSlider.addEventListener("input", () => {
    setRate(rateAt(rateSlider.valueAsNumber), rateSlider);
  });
  rateInput.addEventListener("input", () => {
    setRate(rateInput.valueAsNumber, rateInput);
  });
  rateInput.addEventListener("change", () => setRate(rate));
  addEventListener("pagehide", rememberStream);
  new ResizeObserver(() => {
    charts.resize();
    timeline.resize();
    draw();
  }).observe(element("rate-chart"));
  onColourChange(draw);
}

/** @param source The control that shows it already. */
function setRate(value: number, source?: HTMLElement): void {
  rate = Math.min(Math.max(Math.round(value) || 0, 0), MAX_RATE);
  if (source !== rateInput) rateInput.value = `${rate}`;
  if (source !== rateSlider) rateSlider.value = `${positionOf(rate)}`;
  rateSlider.setAttribute("aria-valuetext", `${formatCount(rate)} per second`);
}

async function setFault(fault: Fault | undefined): Promise<void> {
  await session.remote.setFault(fault).catch(() => {}); // poll() shows it
  await poll();
  showStatus();
}

// -- What is shown --

/** Asks the server how it is. */
async function poll(): Promise<void> {
  const asked = session;
  asked.server = await asked.remote.getState().catch(() => undefined);
  if (asked.server && asked === session) showServer(asked.server);
}

function showServer(state: StreamState): void {
  session.history.add(state);
  const { fault, faultLeft } = state;
  for (const button of faultButtons) {
    const isPressed = button.dataset.fault === fault;
    button.setAttribute("aria-pressed", `${isPressed}`);
  }
  const left = fault === "away" ? Math.ceil(faultLeft! / 1_000) : undefined;
  show("away-note", left === undefined ? "for ten seconds" : `${left} s left`);
}

function tick(): void {
  const { phase, recorder, history } = session;
  void poll();
  if (phase === "closed") return;
  recorder.settle();
  const sample = history.sample(recorder);
  if (!reducedMotion.matches || history.sampleCount % CALM_SAMPLES === 0) {
    draw();
    showFigures(recorder, sample);
  }
  showStatus();
}

function draw(): void {
  charts.draw(session.history);
  timeline.draw();
}

function showStatus(): void {
  const [state, text] = statusOf(session);
  element("status").dataset.state = state;
  show("status", text);
}

function statusOf({ phase, server, recorder }: Session): [string, string] {
  if (phase === "closed") {
    return ["well", "The stream is closed. Both sides are compared."];
  }
  if (server === undefined) {
    return [
      "broken",
      "The server cannot be reached, or was started anew: then reload the page.",
    ];
  }
  const { fault } = server;
  if (phase === "closing") {
    return [
      fault === null ? "waiting" : "broken",
      fault === null
        ? "Closing: the buffer sends what it holds."
        : `Closing: the buffer retries for at most ${
          CLOSE_TIMEOUT / 1_000
        } s. Mend the server before that.`,
    ];
  }
  if (fault !== null) return ["broken", STATUS[fault]];
  const last = recorder.attempts.at(-1);
  return last?.retryIn === undefined
    ? ["well", DELIVERING]
    : ["waiting", RECOVERING];
}

/// <reference lib="dom" />
/** Turns what the visitor does into records. What is typed is not among them. */

/**
 * Calls `write` for each pointer move (one a frame), press, key, scroll and change
 * of visibility.
 *
 * @param signal Ends it.
 */
export function observeVisitor(
  write: (record: object) => void,
  signal: AbortSignal,
): void {
  const record = (event: string, details: object = {}) => {
    write({ event, time: Math.round(performance.now()), ...details });
  };
  const at = ({ pageX, pageY }: MouseEvent) => ({
    x: Math.round(pageX),
    y: Math.round(pageY),
  });
  const listen = <K extends keyof DocumentEventMap>(
    type: K,
    listener: (event: DocumentEventMap[K]) => void,
  ) =>
    document.addEventListener(type, listener, {
      ...{ signal, passive: true, capture: true },
    });

  listen(
    "pointermove",
    oncePerFrame((event) => record("pointer", at(event)), signal),
  );
  listen("pointerdown", (event) => record("press", at(event)));
  // Which key it was is nobody's business.
  listen("keydown", () => record("key"));
  listen(
    "scroll",
    oncePerFrame(() => record("scroll", { y: Math.round(scrollY) }), signal),
  );
  let isLeft = false;
  addEventListener("pagehide", () => isLeft = true, { signal });
  addEventListener("pageshow", () => isLeft = false, { signal });
  listen("visibilitychange", () => {
    // What is written after pagehide may be too late to be sent.
    if (!isLeft) record("visibility", { state: document.visibilityState });
  });
}

/** Calls a listener with the last event of each frame. */
function oncePerFrame<T>(
  listener: (event: T) => void,
  signal: AbortSignal,
): (event: T) => void {
  let last: T | undefined;
  return (event) => {
    if (last === undefined) {
      requestAnimationFrame(() => {
        if (!signal.aborted) listener(last!);
        last = undefined;
      });
    }
    last = event;
  };
}

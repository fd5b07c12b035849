/**
 * Frames of HTTP/2 that reset a stream (RFC 9113, section 6.4).
 *
 * A client that aborts a request resets its stream with the code CANCEL. The HTTP
 * server of Deno takes that for the end of the body, so that half a body looks
 * whole. With any other code it is an error.
 */

/** What a client sends first, in bytes (RFC 9113, section 3.4). */
const PREFACE = 24;
/** Of the head of a frame, in bytes: length, type, flags, stream. */
const HEAD = 9;
const RST_STREAM = 3;
/** INTERNAL_ERROR, in the 4 bytes of such a frame. */
const CODE = [0, 0, 0, 2];

/** Gives every frame that resets a stream the code INTERNAL_ERROR. */
export class ResetCodes extends TransformStream<Uint8Array, Uint8Array> {
  constructor() {
    const head: number[] = [];
    /** Bytes that are passed on before the next head. */
    let left = PREFACE;
    let isReset = false;
    super({
      transform(chunk, controller) {
        for (let at = 0; at < chunk.length;) {
          if (left > 0 && !isReset) {
            const size = Math.min(left, chunk.length - at);
            at += size;
            left -= size;
          } else if (left > 0) {
            chunk[at++] = CODE[CODE.length - left--]!;
          } else {
            head.push(chunk[at++]!);
            if (head.length < HEAD) continue;
            const [high, middle, low, type] = head as [
              number,
              number,
              number,
              number,
            ];
            left = (high << 16) + (middle << 8) + low;
            isReset = type === RST_STREAM && left === CODE.length;
            head.length = 0;
          }
        }
        controller.enqueue(chunk);
      },
    });
  }
}

/** The resize channel: JSON objects `{"Width":80,"Height":24}` one after the other, in pieces of any size. */
import type { TerminalSize } from "./remote-command.ts";

const maxHeldChars = 1024;
const maxSide = 0xffff;

function sizeOf(text: string): TerminalSize | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || !("Width" in value) || !("Height" in value))
      return undefined;
    const { Width: width, Height: height } = value;
    const isSide = (side: unknown): side is number =>
      Number.isInteger(side) && Number(side) >= 0 && Number(side) <= maxSide;
    return isSide(width) && isSide(height) ? { width, height } : undefined;
  } catch {
    return undefined;
  }
}

/** Parses the pieces and keeps the last size until somebody listens. */
export class TerminalSizes {
  #held = "";
  #last: TerminalSize | undefined;
  #listener: ((size: TerminalSize) => void) | undefined;

  push(chunk: Uint8Array): void {
    this.#held += Buffer.from(chunk).toString("latin1");
    for (let end = this.#held.indexOf("}"); end >= 0; end = this.#held.indexOf("}")) {
      const size = sizeOf(this.#held.slice(0, end + 1));
      this.#held = this.#held.slice(end + 1);
      if (size === undefined) continue;
      this.#last = size;
      this.#listener?.(size);
    }
    if (this.#held.length > maxHeldChars) this.#held = "";
  }

  listen(listener: (size: TerminalSize) => void): void {
    this.#listener = listener;
    if (this.#last !== undefined) listener(this.#last);
  }
}

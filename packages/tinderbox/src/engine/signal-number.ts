/** Signal names as images and requests write them: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`. */
import { constants } from "node:os";
import { TinderboxError } from "../base/errors.ts";

const realtimeMin = 34;
const realtimeMax = 64;

/** @throws INVALID for what is no signal */
export function signalNumber(name: string): number {
  const word = name.toUpperCase().replace(/^SIG/, "");
  const realtime = /^RT(MIN|MAX)(?:([+-])(\d{1,2}))?$/.exec(word);
  let number = 0;
  if (/^\d{1,2}$/.test(word)) number = Number(word);
  else if (realtime) {
    const offset = Number(realtime[3] ?? 0) * (realtime[2] === "-" ? -1 : 1);
    number = (realtime[1] === "MIN" ? realtimeMin : realtimeMax) + offset;
    if (number < realtimeMin) number = 0;
  } else {
    number = Object.entries(constants.signals).find(([known]) => known === `SIG${word}`)?.[1] ?? 0;
  }
  if (number < 1 || number > realtimeMax)
    throw new TinderboxError(
      "INVALID",
      `stop_signal ${JSON.stringify(name)}: a Linux signal's name or number is allowed`,
    );
  return number;
}

/** CRI's Signal enum and signal names as images and kill(1) write them (`SIGRTMIN+3`). */
import { type Signal, SignalSchema } from "../rpc/gen/runtime/v1/api_pb.ts";
import { invalid } from "./field-checks.ts";

function nameOf(enumName: string): string {
  return enumName.replace("PLUS", "+").replace("MINUS", "-");
}

/** The name for a number of the enum; "" for the default. */
export function signalName(path: string, value: number): string {
  if (value === 0) return "";
  const found = SignalSchema.values.find((one) => one.number === value);
  if (found === undefined) throw invalid(path, value, "a number of the CRI enum Signal");
  return nameOf(found.name);
}

/** The enum's number for a name; 0 when CRI has no name for it. */
export function signalNumber(name: string): Signal {
  // The number comes from the enum itself.
  return (SignalSchema.values.find((one) => nameOf(one.name) === name)?.number ?? 0) as Signal;
}

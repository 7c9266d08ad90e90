// JSON as it is kept for the guest and given back: numbers as they were written, keys in order.

/** A number in its normal form, e.g. `1`, `-3`, `1.0`, `1e-7`, `1e+16`. */
export class JsonNumber {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

export type JsonObject = ReadonlyMap<string, JsonValue>;
export type JsonValue = null | boolean | string | JsonNumber | readonly JsonValue[] | JsonObject;

export function isJsonObject(value: JsonValue): value is JsonObject {
  return value instanceof Map;
}

/** Shortest digits that give `value` back: always with a point or an exponent, so that a float stays one. */
export function floatText(value: number): string {
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const sign = value < 0 ? "-" : "";
  const [mantissa = "", exponent = "0"] = Math.abs(value).toExponential().split("e");
  const digits = mantissa.replace(".", "");
  // Digits before the point
  const whole = Number(exponent) + 1;
  if (whole > 16 || whole <= -5) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : "";
    return `${sign}${digits.slice(0, 1)}${fraction}e${whole > 0 ? "+" : ""}${whole - 1}`;
  }
  if (whole <= 0) return `${sign}0.${"0".repeat(-whole)}${digits}`;
  if (digits.length <= whole) return `${sign}${digits.padEnd(whole, "0")}.0`;
  return `${sign}${digits.slice(0, whole)}.${digits.slice(whole)}`;
}

const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** Without white space, objects sorted by key. */
export function writeJson(value: JsonValue): string {
  if (value === null || typeof value === "boolean" || typeof value === "string") return JSON.stringify(value);
  if (value instanceof JsonNumber) return value.text;
  if (isJsonObject(value)) {
    const keys = [...value.keys()].sort(byBytes);
    return `{${keys.map((key) => `${JSON.stringify(key)}:${writeJson(value.get(key) ?? null)}`).join(",")}}`;
  }
  return `[${value.map(writeJson).join(",")}]`;
}

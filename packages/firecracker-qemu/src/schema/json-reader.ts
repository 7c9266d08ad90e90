// Reads JSON text from front to back, so that the first thing wrong in it is the one that is named, with its place. Decoders
// (strict-json.ts) pull from it; there is no tree in between, which would hide a doubled key.
import { Fault } from "../fault.ts";
import { floatText } from "./json-value.ts";

/** A number that is whole and fits 64 bits, or one that does not. */
export type NumberToken =
  | { readonly kind: "integer"; readonly value: bigint }
  | { readonly kind: "float"; readonly value: number };

/** One level less than this many arrays and objects may be in one another. */
const maxDepth = 128;
const maxU64 = (1n << 64n) - 1n;
const minI64 = -(1n << 63n);
const words = [["null", null] as const, ["true", true] as const, ["false", false] as const];
const escapes: Readonly<Record<string, string>> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

/** Whether a string may have this UTF-16 unit as it is; NaN is the end of the text. */
function isPlain(code: number): boolean {
  return code >= 0x20 && code !== 0x22 && code !== 0x5c;
}

/** A place in a JSON text. */
export class JsonReader {
  readonly #text: string;
  readonly #what: string;
  readonly #isCut: boolean;
  #at = 0;
  #depth = maxDepth;
  /** Inside a value that nobody wants */
  #isSkipping = false;

  /** `what` is how messages call the text; `isCut` says that it ends where something begins that is no text. */
  constructor(text: string, what: string, isCut = false) {
    this.#text = text;
    this.#what = what;
    this.#isCut = isCut;
  }

  /** What is wrong with what was read last. */
  fault(message: string): Fault {
    return this.#faultAt(this.#at, message);
  }

  /** What the next character is not; at the end, that there is none. */
  #unexpected(message: string, inside: string): Fault {
    if (this.peek() !== "") return this.#faultAt(this.#at + 1, message);
    return this.#ended(inside);
  }

  #ended(inside: string): Fault {
    return this.fault(this.#isCut ? "invalid unicode code point" : `EOF while parsing ${inside}`);
  }

  #faultAt(at: number, message: string): Fault {
    const before = this.#text.slice(0, at).split("\n");
    const column = before.at(-1)?.length ?? 0;
    return new Fault(
      `${this.#what} cannot be deserialized: ${message} at line ${before.length} column ${column}.`,
    );
  }

  /** The next character that is not white space; empty at the end. */
  peek(): string {
    while (" \t\n\r".includes(this.#text[this.#at] ?? "x")) this.#at += 1;
    return this.#text[this.#at] ?? "";
  }

  /** Goes over `character` if it is next. */
  skip(character: string): boolean {
    if (this.peek() !== character) return false;
    this.#at += 1;
    return true;
  }

  /** @throws {Fault} when anything follows */
  end(): void {
    if (this.peek() !== "" || this.#isCut) throw this.#unexpected("trailing characters", "a value");
  }

  /** The members of an object, one after the other: `member` reads the value. */
  members(member: (key: string) => void): void {
    this.#enter("{");
    for (let isFirst = true; !this.skip("}"); isFirst = false) {
      if (!isFirst && !this.skip(",")) throw this.#unexpected("expected `,` or `}`", "an object");
      const next = this.peek();
      if (next === "}") throw this.#unexpected("trailing comma", "an object");
      if (next !== '"') throw this.#unexpected("a key must be a string", "an object");
      member(this.string());
    }
    this.#depth += 1;
  }

  /** Goes over the colon behind a key, which a decoder may look at first. */
  colon(): void {
    if (this.skip(":")) return;
    throw this.#unexpected("expected `:`", "an object");
  }

  /** The elements of an array: `element` reads one. */
  elements(element: (index: number) => void): void {
    this.#enter("[");
    for (let index = 0; !this.skip("]"); index++) {
      if (index > 0 && !this.skip(",")) throw this.#unexpected("expected `,` or `]`", "a list");
      const next = this.peek();
      if (next === "") throw this.#ended("a list");
      if (next === "]") throw this.#unexpected("trailing comma", "a list");
      element(index);
    }
    this.#depth += 1;
  }

  #enter(bracket: string): void {
    if (!this.skip(bracket)) throw this.#unexpected("expected value", "a value");
    this.#depth -= 1;
    if (this.#depth === 0) throw this.fault("recursion limit exceeded");
  }

  /** null, true or false. */
  word(): null | boolean {
    for (const [text, value] of words) {
      if (this.#text.startsWith(text, this.#at)) {
        this.#at += text.length;
        return value;
      }
      const rest = this.#text.slice(this.#at);
      if (rest === "" || !text.startsWith(rest)) continue;
      this.#at = this.#text.length;
      throw this.#ended("a value");
    }
    throw this.#unexpected("expected value", "a value");
  }

  /** Goes over a value that nobody wants: only what makes its end uncertain is wrong in it. */
  skipValue(): void {
    this.#isSkipping = true;
    const inner = (): void => {
      const next = this.peek();
      if (next === "{")
        this.members(() => {
          this.colon();
          inner();
        });
      else if (next === "[") this.elements(inner);
      else if (next === '"') this.string();
      else if (/[-0-9]/.test(next)) this.number();
      else this.word();
    };
    inner();
    this.#isSkipping = false;
  }

  number(): NumberToken {
    this.peek();
    const token = /-?(\d*)(\.\d*)?([eE][+-]?\d*)?/y;
    token.lastIndex = this.#at;
    const [source = "", whole = "", fraction, exponent] = token.exec(this.#text) ?? [];
    this.#at += source.length;
    const isWrong =
      whole === "" ||
      /^0\d/.test(whole) ||
      fraction === "." ||
      (exponent !== undefined && !/\d/.test(exponent));
    if (isWrong) throw this.fault("invalid number");
    if (fraction === undefined && exponent === undefined && source !== "-0") {
      const value = BigInt(source);
      if (value >= minI64 && value <= maxU64) return { kind: "integer", value };
    }
    const value = Number(source);
    if (!Number.isFinite(value) && !this.#isSkipping) throw this.fault("number out of range");
    return { kind: "float", value };
  }

  string(): string {
    if (!this.skip('"')) throw this.fault("expected a string");
    let out = "";
    for (;;) {
      const start = this.#at;
      while (isPlain(this.#text.charCodeAt(this.#at))) this.#at += 1;
      out += this.#text.slice(start, this.#at);
      const next = this.#text[this.#at] ?? "";
      if (next === "") throw this.#ended("a string");
      if (next < " ") throw this.fault("control character in a string");
      if (next === '"') {
        this.#at += 1;
        return out;
      }
      if (next === "\\") {
        this.#at += 1;
        out += this.#escape();
      }
    }
  }

  #escape(): string {
    const letter = this.#text[this.#at] ?? "";
    if (letter === "") throw this.#ended("a string");
    this.#at += 1;
    const plain = escapes[letter];
    if (plain !== undefined) return plain;
    if (letter !== "u") throw this.fault("invalid escape");
    const first = this.#hex();
    if (first < 0xd800 || first > 0xdfff || this.#isSkipping) return String.fromCharCode(first);
    const lone = "lone surrogate in an escape";
    if (first > 0xdbff || !this.#text.startsWith("\\u", this.#at)) throw this.fault(lone);
    this.#at += 2;
    const second = this.#hex();
    if (second < 0xdc00 || second > 0xdfff) throw this.fault(lone);
    return String.fromCharCode(first, second);
  }

  #hex(): number {
    const digits = this.#text.slice(this.#at, this.#at + 4);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) throw this.fault("invalid escape");
    this.#at += 4;
    return Number.parseInt(digits, 16);
  }

  /** What stands at this place, in words; goes over it unless it is an object or an array. */
  describe(): string {
    const next = this.peek();
    if (next === "") throw this.#ended("a value");
    if (next === "{") return "map";
    if (next === "[") return "sequence";
    if (next === '"') return `string ${JSON.stringify(this.string().slice(0, 80))}`;
    if (/[-0-9]/.test(next)) {
      const token = this.number();
      return token.kind === "integer"
        ? `integer \`${token.value}\``
        : `floating point \`${floatText(token.value)}\``;
    }
    const word = this.word();
    return word === null ? "null" : `boolean \`${word}\``;
  }
}

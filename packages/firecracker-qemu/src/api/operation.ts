// What a request asks for, once its path and body have been read: nothing has been done yet, and the machine not been looked at.
import { Fault } from "../fault.ts";
import type { Request } from "../http/parser.ts";
import type { Microvm } from "../machine/microvm.ts";
import type { Observations } from "../machine/observations.ts";
import { type Decoder, parseStrict } from "../schema/strict-json.ts";
import type { MmdsStore } from "./mmds-store.ts";

/** What operations act on. */
export type ApiContext = {
  readonly id: string;
  readonly machine: Microvm;
  readonly observations: Observations;
  readonly mmds: MmdsStore;
};

/** Shown as JSON with 200, or 204 when undefined. */
export type Result = object | undefined;

export type Operation = {
  /** When it is allowed, seen from the start of the machine */
  readonly when: "before" | "after" | "both";
  /** A field of the request will go */
  readonly isDeprecated?: boolean;
  /** @throws {Fault} */
  readonly run: (
    context: ApiContext,
  ) => Result | undefined | Promise<Result | undefined> | void | Promise<void>;
};

/** A request whose path led here. */
export type Call = {
  readonly request: Request;
  /** The path's parts behind the first */
  readonly rest: readonly string[];
};

/** JSON text that is already written: shown as it is. */
export class WrittenJson {
  readonly text: string;
  constructor(text: string) {
    this.text = text;
  }
}

/** The body, decoded. A request without one never comes this far, but for a few whose body is optional. @throws {Fault} */
export function bodyOf<T>({ request }: Call, decode: Decoder<T>): T {
  return parseStrict(request.body ?? "", decode);
}

/** @throws {Fault} when the path has no id, or one that a resource cannot have */
export function idOf({ rest }: Call): string {
  const id = rest[0] ?? "";
  if (id === "") throw new Fault("The ID cannot be empty.");
  // Letters of any script, as Rust takes them: with the marks and numbers that count as one.
  if (!/^[\p{Alphabetic}\p{N}_]+$/u.test(id))
    throw new Fault("The ID of an API resource can only have alphanumeric characters and underscores.");
  return id;
}

/** @throws {Fault} when path and body are about different resources */
export function checkSameId(pathId: string, bodyId: string): void {
  if (pathId !== bodyId)
    throw new Fault(
      `The id from the path [${pathId}] does not match the id from the body [${bodyId.slice(0, 80)}]!`,
    );
}

/** The refusal of a path whose first part is known. */
export function unrecognized({ request }: Call, rest: string): Fault {
  return new Fault(`Unrecognized ${request.method} request path \`${rest}\`.`);
}

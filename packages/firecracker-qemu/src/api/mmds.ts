// The metadata service: its store, and which interfaces it answers on.
import { Fault } from "../fault.ts";
import { mmdsConfigBody } from "../schema/bodies.ts";
import { anything } from "../schema/strict-json.ts";
import type { MmdsStore } from "./mmds-store.ts";
import {
  type ApiContext,
  bodyOf,
  type Call,
  type Operation,
  unrecognized,
  WrittenJson,
} from "./operation.ts";

/** The store; a running machine that no interface of which is configured for it has none. */
function storeOf({ machine, mmds }: ApiContext): MmdsStore {
  if (machine.state !== "Not started" && machine.config.mmds === undefined)
    throw new Fault("MMDS error: The MMDS data store is not initialized.");
  return mmds;
}

/** GET /mmds */
export function getMmds(): Operation {
  return { when: "both", run: (context) => new WrittenJson(storeOf(context).written) };
}

/** PUT /mmds and /mmds/config */
export function putMmds(call: Call): Operation {
  const [first] = call.rest;
  if (first === undefined) {
    const value = bodyOf(call, anything);
    return { when: "both", run: (context) => storeOf(context).replace(value) };
  }
  if (first !== "config") throw unrecognized(call, first);
  const config = bodyOf(call, mmdsConfigBody);
  return {
    when: "before",
    isDeprecated: config.version === "V1",
    run: ({ machine }) => machine.configure((target) => target.setMmds(config)),
  };
}

/** PATCH /mmds */
export function patchMmds(call: Call): Operation {
  const patch = bodyOf(call, anything);
  return { when: "both", run: (context) => storeOf(context).merge(patch) };
}

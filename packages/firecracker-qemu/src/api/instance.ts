// Requests about the whole: what it is, how it is made, what shall happen to it.

import { Fault } from "../fault.ts";
import { describeConfig } from "../machine/describe-config.ts";
import { actionBody, snapshotCreateBody, snapshotLoadBody, vmStateBody } from "../schema/bodies.ts";
import { vmmVersion } from "../version.ts";
import { bodyOf, type Call, type Operation } from "./operation.ts";

/** GET / */
export function getInstance(): Operation {
  return {
    when: "both",
    run: ({ id, machine }) => ({
      id,
      state: machine.state,
      vmm_version: vmmVersion,
      app_name: "Firecracker",
    }),
  };
}

/** GET /version */
export function getVersion(): Operation {
  return { when: "both", run: () => ({ firecracker_version: vmmVersion }) };
}

/** GET /vm/config */
export function getConfig(): Operation {
  return { when: "both", run: ({ machine }) => describeConfig(machine.config) };
}

/** PUT /actions */
export function putActions(call: Call): Operation {
  const { action_type: action } = bodyOf(call, actionBody);
  switch (action) {
    case "InstanceStart":
      return { when: "before", run: ({ machine }) => machine.start() };
    case "FlushMetrics":
      return { when: "after", run: ({ observations }) => observations.flushMetrics() };
    case "SendCtrlAltDel":
      return { when: "after", run: ({ machine }) => machine.sendCtrlAltDel() };
  }
}

/** PATCH /vm */
export function patchVm(call: Call): Operation {
  const { state } = bodyOf(call, vmStateBody);
  return { when: "after", run: ({ machine }) => machine.setPaused(state === "Paused") };
}

/** PUT /snapshot/create and /snapshot/load */
export function putSnapshot(call: Call): Operation {
  const { request, rest } = call;
  switch (rest[0]) {
    case "create": {
      const body = bodyOf(call, snapshotCreateBody);
      return { when: "after", run: ({ machine }) => machine.createSnapshot(body) };
    }
    case "load":
      return putSnapshotLoad(call);
    case undefined:
      throw new Fault("The snapshot's operation is missing in the path: create or load.");
    default:
      throw new Fault(`Invalid request method and/or path: ${request.method} /snapshot/${rest[0]}.`);
  }
}

function putSnapshotLoad(call: Call): Operation {
  const body = bodyOf(call, snapshotLoadBody);
  const { mem_backend, mem_file_path } = body;
  const refuse = (why: string): Fault =>
    new Fault(
      `The json body of the request cannot be deserialized: ${why} of \`mem_backend\` or \`mem_file_path\`.`,
    );
  if (mem_backend === undefined && mem_file_path === undefined) throw refuse("missing field: it takes one");
  if (mem_backend !== undefined && mem_file_path !== undefined)
    throw refuse("too many fields: it takes exactly one");
  return {
    when: "before",
    isDeprecated: mem_file_path !== undefined || body.enable_diff_snapshots,
    run: ({ machine }) => machine.loadSnapshot(body),
  };
}

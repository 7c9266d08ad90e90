// The balloon, which takes memory from the guest, and hotplug, which gives it more.
import { Fault } from "../fault.ts";
import * as bodies from "../schema/bodies.ts";
import { bodyOf, type Call, type Operation, unrecognized } from "./operation.ts";

/** GET /balloon, /balloon/statistics and /balloon/hinting/status */
export function getBalloon(call: Call): Operation {
  const [first, second = ""] = call.rest;
  if (first === undefined) return { when: "both", run: ({ machine }) => machine.balloon() };
  if (first === "statistics") return { when: "after", run: ({ machine }) => machine.balloonStatistics() };
  if (first !== "hinting") throw unrecognized(call, first);
  if (second !== "status") throw unrecognized(call, `/hinting/${second}`);
  return { when: "after", run: ({ machine }) => machine.hintingStatus() };
}

/** PUT /balloon */
export function putBalloon(call: Call): Operation {
  const balloon = bodyOf(call, bodies.balloonBody);
  return { when: "before", run: ({ machine }) => machine.configure((config) => config.setBalloon(balloon)) };
}

/** PATCH /balloon, /balloon/statistics and /balloon/hinting/start and stop */
export function patchBalloon(call: Call): Operation {
  const [first, second = ""] = call.rest;
  const { body } = call.request;
  if (first === "hinting" && second === "start") {
    const start = body === undefined ? { acknowledge_on_stop: true } : bodyOf(call, bodies.hintingStartBody);
    return { when: "after", run: ({ machine }) => machine.startHinting(start) };
  }
  if (first === "hinting" && second === "stop")
    return { when: "after", run: ({ machine }) => machine.stopHinting() };
  if (first === "hinting") throw unrecognized(call, `/hinting/${second}`);
  if (body === undefined) throw new Fault("Empty PATCH request.");
  if (first === "statistics") {
    const { stats_polling_interval_s: seconds } = bodyOf(call, bodies.balloonStatisticsPatchBody);
    return { when: "after", run: ({ machine }) => machine.updateBalloonStatistics(seconds) };
  }
  const { amount_mib } = bodyOf(call, bodies.balloonPatchBody);
  return { when: "after", run: ({ machine }) => machine.updateBalloon(amount_mib) };
}

/** GET /hotplug/memory */
export function getMemoryHotplug(): Operation {
  return { when: "after", run: ({ machine }) => machine.memoryHotplugStatus() };
}

/** PUT /hotplug/memory */
export function putMemoryHotplug(call: Call): Operation {
  const memory = bodyOf(call, bodies.memoryHotplugBody);
  return {
    when: "before",
    run: ({ machine }) => machine.configure((config) => config.setMemoryHotplug(memory)),
  };
}

/** PATCH /hotplug/memory */
export function patchMemoryHotplug(call: Call): Operation {
  const { requested_size_mib } = bodyOf(call, bodies.memoryHotplugPatchBody);
  return { when: "after", run: ({ machine }) => machine.updateMemoryHotplug(requested_size_mib) };
}

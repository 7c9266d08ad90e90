// Requests that set up the machine before it starts: one body each, kept by the machine's configuration.
import { Fault } from "../fault.ts";
import { describeMachine } from "../machine/describe-config.ts";
import * as bodies from "../schema/bodies.ts";
import { cpuConfigBody } from "../schema/cpu-config.ts";
import { bodyOf, type Call, type Operation } from "./operation.ts";

/** GET /machine-config */
export function getMachineConfig(): Operation {
  return { when: "both", run: ({ machine }) => describeMachine(machine.config) };
}

/** PUT /machine-config */
export function putMachineConfig(call: Call): Operation {
  const config = bodyOf(call, bodies.machineConfigBody);
  return {
    when: "before",
    isDeprecated: config.cpu_template !== undefined,
    run: ({ machine }) => machine.configure((target) => target.setMachine(config)),
  };
}

/** PATCH /machine-config */
export function patchMachineConfig(call: Call): Operation {
  const patch = bodyOf(call, bodies.machineConfigPatchBody);
  if (Object.values(patch).every((value) => value === undefined)) throw new Fault("Empty PATCH request.");
  return {
    when: "before",
    isDeprecated: patch.cpu_template !== undefined,
    run: ({ machine }) => machine.configure((target) => target.setMachine(patch)),
  };
}

/** PUT /boot-source */
export function putBootSource(call: Call): Operation {
  const source = bodyOf(call, bodies.bootSourceBody);
  return {
    when: "before",
    run: ({ machine }) => machine.configure((target) => target.setBootSource(source)),
  };
}

/** PUT /cpu-config; a snapshot can still be loaded after it */
export function putCpuConfig(call: Call): Operation {
  const template = bodyOf(call, cpuConfigBody);
  return { when: "before", run: ({ machine }) => machine.config.setCpuConfig(template) };
}

/** PUT /logger */
export function putLogger(call: Call): Operation {
  const logger = bodyOf(call, bodies.loggerBody);
  return { when: "before", run: ({ observations }) => observations.configureLogger(logger) };
}

/** PUT /metrics */
export function putMetrics(call: Call): Operation {
  const metrics = bodyOf(call, bodies.metricsBody);
  return { when: "before", run: ({ observations }) => observations.openMetrics(metrics) };
}

/** PUT /serial; a snapshot can still be loaded after it */
export function putSerial(call: Call): Operation {
  const serial = bodyOf(call, bodies.serialBody);
  return {
    when: "before",
    run: ({ machine }) => {
      machine.config.serial = serial;
    },
  };
}

/** PUT /vsock */
export function putVsock(call: Call): Operation {
  const vsock = bodyOf(call, bodies.vsockBody);
  return {
    when: "before",
    isDeprecated: vsock.vsock_id !== undefined,
    run: ({ machine }) => machine.setVsock(vsock),
  };
}

/** PUT /entropy */
export function putEntropy(call: Call): Operation {
  const entropy = bodyOf(call, bodies.entropyBody);
  return {
    when: "before",
    run: ({ machine }) => machine.configure((target) => target.setEntropy(entropy)),
  };
}

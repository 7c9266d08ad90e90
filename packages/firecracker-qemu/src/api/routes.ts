// Which request does what. Paths and phases as Firecracker has them; what QEMU cannot do is refused by name.
import { Fault } from "../fault.ts";
import type { Request } from "../http/parser.ts";
import type { Answer } from "../http/server.ts";
import type { Microvm } from "../machine/microvm.ts";
import type { Observations } from "../machine/observations.ts";
import * as bodies from "../schema/bodies.ts";
import { type Decoder, parseStrict } from "../schema/strict-json.ts";
import { vmmVersion } from "../version.ts";
import type { MmdsStore } from "./mmds-store.ts";

/** What the routes act on. */
export type ApiContext = {
  readonly id: string;
  readonly machine: Microvm;
  readonly observations: Observations;
  readonly mmds: MmdsStore;
};

const done: Answer = { status: 204 };
const shows = (body: unknown): Answer => ({ status: 200, body });

type Call = {
  readonly request: Request;
  /** Second and third part of the path */
  readonly id: string | undefined;
  readonly more: string | undefined;
};
type Handler = (context: ApiContext, call: Call) => Answer | Promise<Answer>;

const resourceId = /^[\p{L}\p{N}_]+$/u;

function notFound({ method, path }: Request): Fault {
  return new Fault(`Invalid request method and/or path: ${method} ${path.split("/")[1] ?? ""}.`);
}

function bodyOf<T>({ request }: Call, decode: Decoder<T>): T {
  if (request.body === undefined) throw new Fault(`Empty ${request.method} request.`);
  return parseStrict(request.body, decode);
}

function noBody({ request }: Call): void {
  if (request.body !== undefined) throw new Fault(`${request.method} request cannot have a body.`);
}

function idOf(call: Call): string {
  if (call.id === undefined || call.id === "") throw new Fault("The ID cannot be empty.");
  if (!resourceId.test(call.id))
    throw new Fault("API Resource IDs can only contain alphanumeric characters and underscores.");
  return call.id;
}

/** A handler for before the start. */
const before =
  (handler: Handler): Handler =>
  (context, call) => {
    context.machine.requireNotStarted();
    return handler(context, call);
  };

/** A handler for after the start. */
const after =
  (handler: Handler): Handler =>
  (context, call) => {
    context.machine.requireStarted();
    return handler(context, call);
  };

const refuse =
  (what: string): Handler =>
  () => {
    throw new Fault(`${what} is not supported by firecracker-qemu: it is Firecracker's API on QEMU.`);
  };

const noBalloon: Handler = () => {
  throw new Fault("Balloon config error: No balloon device found.");
};

const runAction: Handler = async ({ machine, observations }, call) => {
  const { action_type: action } = bodyOf(call, bodies.actionBody);
  switch (action) {
    case "InstanceStart":
      await machine.start();
      return done;
    case "FlushMetrics":
      machine.requireStarted();
      observations.flushMetrics();
      return done;
    case "SendCtrlAltDel":
      machine.requireStarted();
      throw new Fault(
        "SendCtrlAltDel is not supported by firecracker-qemu: the machine has no keyboard controller.",
      );
  }
};

// Method and first part of the path to its handler; `x/y` where the second part is not an id.
const routes: Readonly<Record<string, Handler>> = {
  "GET ": ({ id, machine }, call) => {
    noBody(call);
    return shows({ app_name: "Firecracker", id, state: machine.state, vmm_version: vmmVersion });
  },
  "GET version": () => shows({ firecracker_version: vmmVersion }),
  "GET vm/config": ({ machine }) => shows(machine.config.describe()),
  "PATCH vm": after(async ({ machine }, call) => {
    await machine.setPaused(bodyOf(call, bodies.vmStateBody).state === "Paused");
    return done;
  }),
  "GET machine-config": ({ machine }) => shows(machine.config.describeMachine()),
  "PUT machine-config": ({ machine }, call) => {
    const config = bodyOf(call, bodies.machineConfigBody);
    machine.requireNotStarted();
    machine.config.setMachine(config);
    return done;
  },
  "PATCH machine-config": ({ machine }, call) => {
    const patch = bodyOf(call, bodies.machineConfigPatchBody);
    machine.requireNotStarted();
    machine.config.patchMachine(patch);
    return done;
  },
  "PUT boot-source": ({ machine }, call) => {
    const source = bodyOf(call, bodies.bootSourceBody);
    machine.requireNotStarted();
    machine.config.setBootSource(source);
    return done;
  },
  "PUT drives": ({ machine }, call) => {
    const id = idOf(call);
    const drive = bodyOf(call, bodies.driveBody);
    if (machine.state !== "Not started")
      throw new Fault("Drive config error: PCI is not enabled, so no drive can be plugged in.");
    machine.config.putDrive(id, drive);
    return done;
  },
  "PATCH drives": async ({ machine }, call) => {
    const id = idOf(call);
    const patch = bodyOf(call, bodies.drivePatchBody);
    machine.requireStarted();
    await machine.patchDrive(id, patch);
    return done;
  },
  "DELETE drives": after((_context, call) => {
    idOf(call);
    throw new Fault("Drive config error: PCI is not enabled, so no drive can be unplugged.");
  }),
  "PUT network-interfaces": ({ machine }, call) => {
    const id = idOf(call);
    const device = bodyOf(call, bodies.networkInterfaceBody);
    if (machine.state !== "Not started")
      throw new Fault("Network config error: PCI is not enabled, so no interface can be plugged in.");
    machine.config.putInterface(id, device);
    return done;
  },
  "PATCH network-interfaces": after(({ machine }, call) => {
    machine.patchInterface(idOf(call), bodyOf(call, bodies.networkInterfacePatchBody));
    return done;
  }),
  "DELETE network-interfaces": after((_context, call) => {
    idOf(call);
    throw new Fault("Network config error: PCI is not enabled, so no interface can be unplugged.");
  }),
  "PUT vsock": async ({ machine }, call) => {
    const vsock = bodyOf(call, bodies.vsockBody);
    machine.requireNotStarted();
    await machine.setVsock(vsock);
    return vsock.vsock_id === undefined ? done : { ...done, isDeprecated: true };
  },
  "PUT entropy": ({ machine }, call) => {
    const entropy = bodyOf(call, bodies.entropyBody);
    machine.requireNotStarted();
    machine.config.setEntropy(entropy);
    return done;
  },
  "PUT serial": ({ machine }, call) => {
    const serial = bodyOf(call, bodies.serialBody);
    machine.requireNotStarted();
    machine.config.setSerial(serial);
    return done;
  },
  "PUT logger": ({ machine, observations }, call) => {
    const logger = bodyOf(call, bodies.loggerBody);
    machine.requireNotStarted();
    observations.configureLogger(logger);
    return done;
  },
  "PUT metrics": ({ machine, observations }, call) => {
    const { metrics_path } = bodyOf(call, bodies.metricsBody);
    machine.requireNotStarted();
    observations.openMetrics(metrics_path);
    return done;
  },
  "PUT actions": runAction,
  "GET mmds": ({ mmds }) => shows(mmds.value),
  "PUT mmds": ({ mmds }, call) => {
    mmds.replace(bodyOf(call, (value) => value));
    return done;
  },
  "PATCH mmds": ({ mmds }, call) => {
    mmds.merge(bodyOf(call, (value) => value));
    return done;
  },
  "PUT mmds/config": before(refuse("The metadata service (`/mmds/config`)")),
  "GET balloon": noBalloon,
  "GET balloon/statistics": after(noBalloon),
  "PATCH balloon": after(noBalloon),
  "PATCH balloon/statistics": after(noBalloon),
  "PUT balloon": before(refuse("A balloon device (`/balloon`)")),
  "PUT cpu-config": before(refuse("A CPU configuration (`/cpu-config`)")),
  "PUT pmem": refuse("A pmem device (`/pmem`)"),
  "GET hotplug/memory": after(refuse("Memory hotplug (`/hotplug/memory`)")),
  "PUT hotplug/memory": before(refuse("Memory hotplug (`/hotplug/memory`)")),
  "PATCH hotplug/memory": after(refuse("Memory hotplug (`/hotplug/memory`)")),
  "PUT snapshot/create": after(refuse("A snapshot (`/snapshot/create`)")),
  "PUT snapshot/load": before(refuse("A snapshot (`/snapshot/load`)")),
};

/** Answers one request. @throws {Fault} */
export async function route(context: ApiContext, request: Request): Promise<Answer> {
  const [, first = "", second, more] = request.path.split("/");
  const { observations } = context;
  observations.log(
    "Info",
    `The API server received a ${request.method} request on ${JSON.stringify(request.path)}.`,
  );
  observations.count(`${request.method.toLowerCase()}_api_requests.count`);
  const name = `${request.method} ${first}`;
  const handler =
    (second === undefined ? undefined : routes[`${name}/${second}`]) ??
    (Object.hasOwn(routes, name) ? routes[name] : undefined);
  if (handler === undefined) throw notFound(request);
  if (request.method === "GET" && request.body !== undefined)
    throw new Fault("GET request cannot have a body.");
  return await handler(context, { request, id: second, more });
}

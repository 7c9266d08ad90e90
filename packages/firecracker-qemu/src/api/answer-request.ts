// From a request to its answer: which operation it is, whether the machine's state allows it, what came of it.
import { Fault, reason } from "../fault.ts";
import type { Request } from "../http/parser.ts";
import type { Answer } from "../http/server.ts";
import {
  deleteDevice,
  patchDrive,
  patchInterface,
  patchPmem,
  putDrive,
  putInterface,
  putPmem,
} from "./devices.ts";
import { getConfig, getInstance, getVersion, patchVm, putActions, putSnapshot } from "./instance.ts";
import {
  getBalloon,
  getMemoryHotplug,
  patchBalloon,
  patchMemoryHotplug,
  putBalloon,
  putMemoryHotplug,
} from "./memory.ts";
import { getMmds, patchMmds, putMmds } from "./mmds.ts";
import { type ApiContext, type Call, type Operation, WrittenJson } from "./operation.ts";
import * as settings from "./settings.ts";

type Parse = (call: Call) => Operation;
/** A route, and the counter of its requests if it has one */
type Route = readonly [parse: Parse, counter?: string];

// By method and first part of the path; with the second part where there is only one.
const routes = new Map<string, Route>([
  ["GET ", [getInstance, "get_api_requests.instance_info"]],
  ["GET balloon", [getBalloon]],
  ["GET version", [getVersion, "get_api_requests.vmm_version"]],
  ["GET vm/config", [getConfig]],
  ["GET machine-config", [settings.getMachineConfig, "get_api_requests.machine_cfg"]],
  ["GET mmds", [getMmds, "get_api_requests.mmds"]],
  ["GET hotplug/memory", [getMemoryHotplug, "get_api_requests.hotplug_memory"]],
  ["PUT actions", [putActions, "put_api_requests.actions"]],
  ["PUT balloon", [putBalloon]],
  ["PUT boot-source", [settings.putBootSource, "put_api_requests.boot_source"]],
  ["PUT cpu-config", [settings.putCpuConfig, "put_api_requests.cpu_cfg"]],
  ["PUT drives", [putDrive, "put_api_requests.drive"]],
  ["PUT pmem", [putPmem, "put_api_requests.pmem"]],
  ["PUT logger", [settings.putLogger, "put_api_requests.logger"]],
  ["PUT serial", [settings.putSerial, "put_api_requests.serial"]],
  ["PUT machine-config", [settings.putMachineConfig, "put_api_requests.machine_cfg"]],
  ["PUT metrics", [settings.putMetrics, "put_api_requests.metrics"]],
  ["PUT mmds", [putMmds, "put_api_requests.mmds"]],
  ["PUT network-interfaces", [putInterface, "put_api_requests.network"]],
  ["PUT snapshot", [putSnapshot]],
  ["PUT vsock", [settings.putVsock, "put_api_requests.vsock"]],
  ["PUT entropy", [settings.putEntropy]],
  ["PUT hotplug/memory", [putMemoryHotplug, "put_api_requests.hotplug_memory"]],
  ["PATCH balloon", [patchBalloon]],
  ["PATCH drives", [patchDrive, "patch_api_requests.drive"]],
  ["PATCH machine-config", [settings.patchMachineConfig, "patch_api_requests.machine_cfg"]],
  ["PATCH mmds", [patchMmds, "patch_api_requests.mmds"]],
  ["PATCH network-interfaces", [patchInterface, "patch_api_requests.network"]],
  ["PATCH pmem", [patchPmem, "patch_api_requests.pmem"]],
  ["PATCH vm", [patchVm]],
  ["PATCH hotplug/memory", [patchMemoryHotplug, "patch_api_requests.hotplug_memory"]],
  ["DELETE drives", [deleteDevice]],
  ["DELETE pmem", [deleteDevice]],
  ["DELETE network-interfaces", [deleteDevice]],
]);

/** The parts of a path: slashes before the first and one behind the last do not count. */
function parts(path: string): readonly string[] {
  const trimmed = path.replace(/^\/+/, "");
  const all = trimmed.split("/");
  return trimmed.endsWith("/") ? all.slice(0, -1) : all;
}

/** @throws {Fault} when a method is used with a body that it cannot have, or without one that it needs */
function checkBody({ method, body }: Request, first: string): void {
  const takesBody = method === "PUT" || method === "PATCH";
  if (body !== undefined && !takesBody)
    throw new Fault(
      method === "GET" ? "GET request cannot have a body." : "Empty Delete request: it cannot have a body.",
    );
  // A balloon's requests say themselves what they need.
  const isOptional = method === "PATCH" && first === "balloon";
  if (body === undefined && takesBody && !isOptional) throw new Fault(`Empty ${method} request.`);
}

/** @throws {Fault} when it is no operation at all */
function parse(request: Request, { observations }: ApiContext): Operation {
  const [first = "", ...rest] = parts(request.path);
  checkBody(request, first);
  const key = `${request.method} ${first}`;
  const route = (rest[0] === undefined ? undefined : routes.get(`${key}/${rest[0]}`)) ?? routes.get(key);
  if (route === undefined) throw new Fault(`Invalid request method and/or path: ${key}.`);
  const [read, counter] = route;
  if (counter !== undefined) observations.count(`${counter}_count`);
  try {
    return read({ request, rest });
  } catch (cause) {
    if (counter !== undefined) observations.count(`${counter}_fails`);
    throw cause;
  }
}

async function run(operation: Operation, context: ApiContext): Promise<Answer> {
  const isStarted = context.machine.state !== "Not started";
  if (operation.when === "before" && isStarted)
    throw new Fault("The requested operation is not supported after starting the microVM.");
  if (operation.when === "after" && !isStarted)
    throw new Fault("The requested operation is not supported before starting the microVM.");
  const result = await operation.run(context);
  if (result === undefined) return { status: 204 };
  return { status: 200, body: result instanceof WrittenJson ? result.text : JSON.stringify(result) };
}

function refusal(thrown: unknown): Answer {
  const status = thrown instanceof Fault ? thrown.status : 400;
  return { status, body: JSON.stringify({ fault_message: reason(thrown) }) };
}

/** Answers one request; whatever goes wrong is an answer, too. */
export async function answerRequest(context: ApiContext, request: Request): Promise<Answer> {
  const { observations } = context;
  const { method, path, body } = request;
  // Metadata may be secret.
  const shown =
    body === undefined || path === "/mmds" ? "" : ` with body ${JSON.stringify(body.toString("utf8"))}`;
  observations.log("Info", `The API server received a ${method} request on ${JSON.stringify(path)}${shown}.`);
  let answer: Answer;
  try {
    const operation = parse(request, context);
    if (operation.isDeprecated === true) observations.count("deprecated_api.deprecated_http_api_calls");
    try {
      answer = await run(operation, context);
    } catch (thrown) {
      answer = refusal(thrown);
    }
    if (operation.isDeprecated === true) answer = { ...answer, isDeprecated: true };
  } catch (thrown) {
    answer = refusal(thrown);
  }
  if (answer.status < 300)
    observations.log("Info", `The request was executed successfully. Status code: ${answer.status}.`);
  else
    observations.log("Error", `Received Error. Status code: ${answer.status}. Message: ${answer.body ?? ""}`);
  return answer;
}

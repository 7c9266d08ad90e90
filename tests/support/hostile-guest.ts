/**
 * A VMM whose guest is an attacker:   hostile-guest.ts MODE REPORT [Firecracker's arguments]
 * It takes Firecracker's operations, runs nothing, and when the machine is started dials the host as the guest's agent
 * does. What it does then is its MODE; what it is told is appended to the file REPORT, a line of JSON each.
 */
import { appendFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { connect, type Socket } from "node:net";
import { dirname, resolve } from "node:path";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { encodeFrame, FrameDecoder, frameKind } from "../../packages/tinderbox/src/rpc/agent-frame-codec.ts";
import {
  AgentInfoSchema,
  ContainerState_Status,
  ContainerStateSchema,
  EventSchema,
  HelloSchema,
  type Request,
  RequestSchema,
  ResponseSchema,
} from "../../packages/tinderbox/src/rpc/gen/tinderbox/agent/v1/agent_pb.ts";

export const hostileModes = ["obedient", "huge", "garbage", "no-hello", "other-protocol", "lies"] as const;
export type HostileMode = (typeof hostileModes)[number];

const [mode = "", report = "", ...vmmArguments] = process.argv.slice(2);
const api = vmmArguments[vmmArguments.indexOf("--api-sock") + 1] ?? "";
let vsock = "";
let isStarted = false;

const hello = (protocol: number): Buffer =>
  encodeFrame(
    frameKind.hello,
    0,
    toBinary(HelloSchema, create(HelloSchema, { protocol, version: "0", guest: true, bootId: "0" })),
  );

/** By the wire any number may come, whatever the type says. */
const unknownStatus = 77 as ContainerState_Status;

/** Events of containers that nobody made, with ids that would be paths, and answers that nobody waits for. */
function lie(socket: Socket): void {
  for (const id of ["../../../../../tmp/tb-escape", "/etc/passwd", "x".repeat(100_000), ""]) {
    const state = (status: ContainerState_Status) =>
      create(ContainerStateSchema, { id, status, exitCode: -5, finishedAtNs: -1n, logEnd: 1n << 63n });
    for (const body of [
      { case: "exited", value: state(ContainerState_Status.EXITED) },
      { case: "state", value: state(unknownStatus) },
      { case: "oom", value: id },
    ] as const)
      socket.write(encodeFrame(frameKind.event, 0, toBinary(EventSchema, create(EventSchema, { body }))));
  }
  const stray = toBinary(ResponseSchema, create(ResponseSchema, { id: 1n << 60n }));
  for (let n = 0; n < 100_000; n++) socket.write(encodeFrame(frameKind.response, 0, stray));
}

function answer(socket: Socket, request: Request): void {
  const { case: kind, value } = request.body;
  const told = JSON.stringify(
    { kind, value, entropyBytes: kind === "configureGuest" ? [...value.entropy] : [] },
    (_, one: unknown) => (typeof one === "bigint" ? String(one) : one),
  );
  appendFileSync(report, `${told}\n`);
  const isAboutGuest = kind === "configureGuest" || kind === "ping" || kind === "subscribe";
  // Of a container it says that it runs, and gives another's id.
  const state = create(ContainerStateSchema, {
    id: "../../other",
    status: ContainerState_Status.RUNNING,
    pid: -1,
  });
  const response = create(ResponseSchema, {
    id: request.id,
    body: isAboutGuest
      ? { case: "info", value: create(AgentInfoSchema, { pid: 1 }) }
      : { case: "container", value: state },
  });
  socket.write(encodeFrame(frameKind.response, 0, toBinary(ResponseSchema, response)));
  if (mode === "lies" && kind === "configureGuest") lie(socket);
}

function dial(): void {
  const socket = connect(`${vsock}_1024`);
  socket.on("error", () => {});
  if (mode === "huge") return void socket.write(Buffer.from([0x7f, 0xff, 0xff, 0xff, 1, 0, 0, 0]));
  if (mode === "garbage")
    return void socket.write(encodeFrame(frameKind.hello, 0, Buffer.from("ffffffffffffffffff7f", "hex")));
  if (mode === "no-hello") return void socket.write(encodeFrame(frameKind.data, 1, Buffer.alloc(1 << 20)));
  socket.write(hello(mode === "other-protocol" ? 99 : 1));
  const decoder = new FrameDecoder();
  socket.on("data", (chunk) => {
    for (const frame of decoder.push(chunk))
      if (frame.kind === frameKind.request) answer(socket, fromBinary(RequestSchema, frame.payload));
  });
}

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let text = "";
  for await (const chunk of request.setEncoding("utf8")) text += chunk;
  if (request.method === "GET") {
    const state = isStarted ? "Running" : "Not started";
    const facts = {
      id: "x",
      state,
      vmm_version: "1.17.0",
      app_name: "Firecracker",
      firecracker_version: "1.17.0",
    };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(facts));
    return;
  }
  if (request.url === "/vsock") vsock = resolve(dirname(api), JSON.parse(text).uds_path);
  response.writeHead(204).end();
  if (request.url === "/actions" && text.includes("InstanceStart")) {
    isStarted = true;
    dial();
  }
}

if (vmmArguments.includes("--version")) {
  console.log("Firecracker v1.17.0");
} else if (api !== "") {
  createServer((request, response) => void serve(request, response)).listen(api);
}

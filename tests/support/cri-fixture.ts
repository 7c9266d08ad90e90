/** A daemon with the pods and containers that a test of requests needs: running, made, exited, stopped. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { TinderboxError } from "../../packages/tinderbox/src/base/errors.ts";
import {
  type ContainerConfigSchema,
  ImageService,
  type PodSandboxConfigSchema,
  RuntimeService,
} from "../../packages/tinderbox/src/rpc/gen/runtime/v1/api_pb.ts";
import { Images } from "../../packages/tinderbox/src/rpc/gen/tinderbox/images/v1/images_pb.ts";
import { createGrpcClient, type GrpcClient } from "../../packages/tinderbox/src/rpc/grpc-client.ts";
import { pushBusyboxImage } from "./busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./cni.ts";
import { startDaemon, type TestDaemon } from "./daemon.ts";
import { diffSnapshots, formatDiff, type Snapshot, snapshotHost } from "./leak-report.ts";
import { startRegistry, type TestRegistry } from "./test-registry.ts";

export type PodConfig = MessageInitShape<typeof PodSandboxConfigSchema>;
export type ContainerConfig = MessageInitShape<typeof ContainerConfigSchema>;

/** What is sent, by which code it is refused, and what the message says */
export type Case = readonly [
  what: string,
  send: () => Promise<unknown>,
  code: TinderboxError["code"],
  message: RegExp,
];

/** Text longer than any field may be */
export const long: string = "x".repeat(5000);

/** Asserts that a request is refused as the case says. */
export async function assertRefused([, send, code, message]: Case): Promise<void> {
  await assert.rejects(send(), (error: unknown) => {
    assert.ok(error instanceof TinderboxError);
    assert.match(error.message, message);
    assert.equal(error.code, code, error.message);
    return true;
  });
}

export class CriFixture {
  readonly work: string = mkdtempSync("/tmp/tb-");
  /** A pod with a container that runs, one that was made, and one that has exited; and a stopped pod */
  readonly ids = { pod: "", running: "", created: "", exited: "", stopped: "" };
  image = "";
  #registry: TestRegistry | undefined;
  #cni: TestCni | undefined;
  #daemon: TestDaemon | undefined;
  #clients:
    | {
        runtime: GrpcClient<typeof RuntimeService>;
        images: GrpcClient<typeof ImageService>;
        imports: GrpcClient<typeof Images>;
      }
    | undefined;
  #snapshot: Snapshot | undefined;

  constructor() {
    before(() => this.#begin());
    after(() => this.#end());
  }

  get daemon(): TestDaemon {
    assert.ok(this.#daemon);
    return this.#daemon;
  }
  get runtime(): GrpcClient<typeof RuntimeService> {
    assert.ok(this.#clients);
    return this.#clients.runtime;
  }
  get images(): GrpcClient<typeof ImageService> {
    assert.ok(this.#clients);
    return this.#clients.images;
  }
  get imports(): GrpcClient<typeof Images> {
    assert.ok(this.#clients);
    return this.#clients.imports;
  }

  goodPod(name: string): PodConfig {
    return {
      metadata: { name, namespace: "test", uid: name, attempt: 0 },
      logDirectory: join(this.work, "logs", name),
    };
  }

  pod(change: PodConfig): PodConfig {
    return Object.assign(this.goodPod("bad"), change);
  }

  container(change: ContainerConfig): ContainerConfig {
    const plain = {
      metadata: { name: "bad", attempt: 0 },
      image: { image: this.image },
      command: ["sleep", "1000"],
    };
    return Object.assign(plain, change);
  }

  async #begin(): Promise<void> {
    const registry = await startRegistry({ dir: join(this.work, "registry") });
    this.#registry = registry;
    this.image = `${registry.host}/test/busybox:latest`;
    await pushBusyboxImage(registry.url, "test/busybox", "latest");
    const cni = writeBridgeConf(join(this.work, "cni"));
    this.#cni = cni;
    const daemon = await startDaemon({
      root: join(this.work, "root"),
      state: join(this.work, "run"),
      configToml: cni.toml,
    });
    this.#daemon = daemon;
    const address = `unix://${daemon.socket}`;
    const runtime = createGrpcClient(RuntimeService, address);
    const images = createGrpcClient(ImageService, address);
    this.#clients = { runtime, images, imports: createGrpcClient(Images, address) };
    await images.callUnary("pullImage", { image: { image: this.image } });
    const run = async (name: string): Promise<string> =>
      (await runtime.callUnary("runPodSandbox", { config: this.goodPod(name), runtimeHandler: "crun" }))
        .podSandboxId;
    this.ids.pod = await run("good");
    this.ids.stopped = await run("old");
    await runtime.callUnary("stopPodSandbox", { podSandboxId: this.ids.stopped });
    for (const name of ["running", "created", "exited"] as const) {
      const command = name === "running" ? ["sleep", "1000"] : ["true"];
      const config = this.container({ metadata: { name, attempt: 0 }, command, logPath: `${name}.log` });
      const { containerId } = await runtime.callUnary("createContainer", {
        podSandboxId: this.ids.pod,
        config,
      });
      if (name !== "created") await runtime.callUnary("startContainer", { containerId });
      if (name === "exited") await runtime.callUnary("stopContainer", { containerId, timeout: 10n });
      this.ids[name] = containerId;
    }
    this.#snapshot = snapshotHost([this.work]);
  }

  /** That there are the pods and containers of the start, and nothing else on this host. */
  async assertNothingMade(): Promise<void> {
    const { ids } = this;
    const pods = (await this.runtime.callUnary("listPodSandbox", {})).items.map(({ id }) => id);
    assert.deepEqual(pods.toSorted(), [ids.pod, ids.stopped].toSorted());
    const containers = (await this.runtime.callUnary("listContainers", {})).containers.map(({ id }) => id);
    assert.deepEqual(containers.toSorted(), [ids.created, ids.exited, ids.running].toSorted());
    assert.ok(this.#snapshot);
    const differences = diffSnapshots(this.#snapshot, snapshotHost([this.work])).filter(
      ({ added }) => added.length > 0,
    );
    assert.deepEqual(differences, [], formatDiff(this.#snapshot, differences));
  }

  async #end(): Promise<void> {
    for (const podSandboxId of [this.ids.pod, this.ids.stopped])
      if (podSandboxId !== "") await this.runtime.callUnary("removePodSandbox", { podSandboxId });
    for (const client of Object.values(this.#clients ?? {})) client.close();
    await this.#daemon?.stop();
    await this.#registry?.stop();
    this.#cni?.remove();
    rmSync(this.work, { recursive: true, force: true });
  }
}

/** What a file of CRI tests stands on: a registry with busybox in it, a bridge, a daemon with the image, and its client. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { pushBusyboxImage } from "./busybox-image.ts";
import { type TestCni, writeBridgeConf } from "./cni.ts";
import { TestCri } from "./cri-client.ts";
import { startDaemon, type TestDaemon, type TestDaemonOptions } from "./daemon.ts";
import { startRegistry, type TestRegistry } from "./test-registry.ts";

export type CriStage = {
  readonly registry: TestRegistry;
  readonly cni: TestCni;
  readonly daemon: TestDaemon;
  readonly cri: TestCri;
  /** busybox, pulled */
  readonly image: string;
};

/** Everything below `work`; `settings` stand before the daemon's CNI table. */
export async function startCriStage(
  work: string,
  {
    settings = "",
    ...more
  }: { readonly settings?: string } & Pick<TestDaemonOptions, "logLevel" | "program"> = {},
): Promise<CriStage> {
  const registry = await startRegistry({ dir: join(work, "registry") });
  const image = `${registry.host}/test/busybox:latest`;
  await pushBusyboxImage(registry.url, "test/busybox", "latest");
  const cni = writeBridgeConf(join(work, "cni"));
  const daemon = await startDaemon({
    root: join(work, "root"),
    state: join(work, "run"),
    configToml: `${settings}${cni.toml}`,
    ...more,
  });
  const cri = new TestCri(daemon.socket, work);
  await cri.pull(image);
  return { registry, cni, daemon, cri, image };
}

/** Removes its pods, ends it, and removes `work`. */
export async function stopCriStage(work: string, stage: Omit<CriStage, "image">): Promise<void> {
  const { registry, cni, daemon, cri } = stage;
  await cri.removePods();
  cri[Symbol.dispose]();
  await daemon.stop();
  await registry.stop();
  cni.remove();
  rmSync(work, { recursive: true, force: true });
}

/** Puts the layers together: images, network, sandboxes, engine, streaming, CRI. */
import { join } from "node:path";
import type { Logger } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import { CdiRegistry } from "../cdi/cdi-registry.ts";
import { createCriServer } from "../cri/cri-server.ts";
import { openStreamingServer } from "../cri/streaming/streaming-server.ts";
import { type DefaultProfile, defaultProfileName, loadDefaultProfile } from "../engine/app-armor.ts";
import { openEngine } from "../engine/engine.ts";
import { openImageService } from "../image/image-service.ts";
import type { ImageSettings } from "../image/image-settings.ts";
import { createNetworkService } from "../network/network-service.ts";
import { Images } from "../rpc/gen/tinderbox/images/v1/images_pb.ts";
import type { SandboxFactory } from "../sandbox/contract.ts";
import { createHostSandboxFactory } from "../sandbox/host/host-sandbox.ts";
import { JailUsers } from "../sandbox/microvm/jail-users.ts";
import type { DaemonConfig, RuntimeConfig } from "./config.ts";
import { importCalls } from "./import-service.ts";
import { startMetricsServer } from "./metrics-server.ts";
import { createMicrovmFactory } from "./microvm-factory.ts";
import { prepareSocketPath, withPrivateSocket } from "./socket-path.ts";

/** How long calls may go on after the daemon was asked to end. */
const graceMs = 2000;

function factoryOf(
  runtime: RuntimeConfig,
  config: DaemonConfig,
  jailUsers: JailUsers,
  logger: Logger,
): SandboxFactory {
  const log = logger.with({ handler: runtime.name });
  if (runtime.type === "microvm") return createMicrovmFactory(runtime, config, jailUsers, log);
  return createHostSandboxFactory({
    handler: runtime.name,
    // Apart for each handler: each keeps its own count of who uses an image's mount.
    stateDir: join(config.state, runtime.name),
    writableDir: join(config.root, "writable"),
    log,
  });
}

function describe(config: DaemonConfig): string {
  const { root, state, listen, defaultRuntime, enableCriuSupport, cni, cdiSpecDirs } = config;
  return JSON.stringify({
    root,
    state,
    listen,
    defaultRuntime,
    enableCriuSupport,
    cni,
    cdiSpecDirs,
    runtimes: [...config.runtimes.values()],
  });
}

async function defaultProfile(logger: Logger): Promise<DefaultProfile> {
  const profile = await loadDefaultProfile();
  if (profile.kind === "missing")
    logger.warn("containers are without an AppArmor profile: the runtime's own could not be loaded", {
      profile: defaultProfileName,
      why: profile.why,
    });
  return profile;
}

/** Starts everything and serves CRI; what is said of images may change while it runs. Disposing ends the daemon's part; pods live on. */
export async function startDaemon(
  config: DaemonConfig,
  imageSettings: () => ImageSettings,
  logger: Logger,
): Promise<AsyncDisposable> {
  const undo = new UndoStack();
  try {
    await prepareSocketPath(config.listen);
    const appArmor = defaultProfile(logger);
    const images = await openImageService({
      root: config.root,
      settings: imageSettings,
      logger,
    });
    undo.defer("close the images", () => images.close());
    const network = await createNetworkService({
      ...config.cni,
      rootDir: join(config.root, "network"),
      stateDir: join(config.state, "network"),
      logger,
    });
    const jailUsers = new JailUsers();
    const factories = new Map(
      [...config.runtimes].map(
        ([name, runtime]) => [name, factoryOf(runtime, config, jailUsers, logger)] as const,
      ),
    );
    const engine = await openEngine({
      config: { ...config, defaultHandler: config.defaultRuntime },
      images,
      network,
      appArmor: await appArmor,
      cdi: new CdiRegistry(config.cdiSpecDirs),
      factories,
      logger,
    });
    undo.defer("let go of the pods", () => engine.close());
    const streaming = await openStreamingServer(engine, logger);
    undo.defer("close the streams", () => streaming.close());
    const { listen } = config.metrics;
    // Loaded only where somebody wants it.
    const metrics = listen === "" ? undefined : (await import("./metrics.ts")).createMetrics(engine);
    if (metrics) {
      const serving = await startMetricsServer(listen, engine, metrics);
      undo.defer("close the metrics", async () => serving[Symbol.asyncDispose]());
    }
    const server = createCriServer({
      engine,
      streaming,
      logger,
      configJson: describe(config),
      ...(metrics === undefined ? {} : { observe: metrics.observe }),
    });
    server.add(Images, importCalls(images), logger);
    undo.defer("close the CRI socket", () => server.close(graceMs));
    await withPrivateSocket(config.listen, () => server.listen(config.listen));
    return undo;
  } catch (cause) {
    await undo
      .unwind()
      .catch((failure: Error) => logger.error("start undone with failures", { error: failure.message }));
    throw cause;
  }
}

/** Version, Status, RuntimeConfig and UpdateRuntimeConfig: they never fail; what they wait for has a short deadline, and nothing slow is looked at unless they are to be verbose. */
import { tinderboxVersion } from "../base/version.ts";
import type { Engine } from "../engine/contract.ts";
import { CgroupDriver } from "../rpc/gen/runtime/v1/api_pb.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";

/** The handlers with what Status has no field for. */
async function handlersJson(engine: Engine): Promise<string> {
  const checkpointOf = async (name: string): Promise<object> => {
    const support = await engine.checkpointSupport(name);
    return support.isSupported
      ? { supported: true, criu: support.criuVersion }
      : { supported: false, reason: support.reason };
  };
  return JSON.stringify(
    await Promise.all(
      engine.handlers.map(async (one) => ({ ...one, checkpoint: await checkpointOf(one.name) })),
    ),
  );
}

/** The calls about the runtime itself. */
export function runtimeStatusCalls({ engine, configJson }: CriContext): RuntimeCalls {
  return {
    version: async () => ({
      // The kubelet's own constant, older than the CRI
      version: "0.1.0",
      runtimeName: "tinderbox",
      runtimeVersion: tinderboxVersion,
      runtimeApiVersion: "v1",
    }),
    status: async ({ verbose }) => {
      const { isReady, message } = await engine.networkStatus();
      const reason = isReady ? "NetworkConfigurationFault" : "NetworkPluginNotReady";
      const features = new Map(engine.handlers.map((handler) => [handler.name, handler.features]));
      const ofDefault = features.get(engine.defaultHandler);
      if (ofDefault) features.set("", ofDefault);
      return {
        status: {
          conditions: [
            { type: "RuntimeReady", status: true },
            { type: "NetworkReady", status: isReady, ...(message === "" ? {} : { reason, message }) },
          ],
        },
        runtimeHandlers: [...features].map(([name, ofHandler]) => ({ name, features: ofHandler })),
        features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false },
        info: verbose
          ? {
              config: configJson,
              handlers: await handlersJson(engine),
              cdi: JSON.stringify(await engine.cdiStatus()),
            }
          : {},
      };
    },
    // Pods' cgroups are made as plain directories below the kubelet's.
    runtimeConfig: async () => ({ linux: { cgroupDriver: CgroupDriver.CGROUPFS } }),
    updateRuntimeConfig: async ({ runtimeConfig }) => {
      const podCidr = runtimeConfig?.networkConfig?.podCidr ?? "";
      // The kubelet says nothing of a node that has none.
      if (podCidr !== "") await engine.setPodCidrs(podCidr.split(",").map((one) => one.trim()));
      return {};
    },
  };
}

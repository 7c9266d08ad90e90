/** The engine's pods as CRI messages. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Pod } from "../engine/contract.ts";
import type { IdMapping } from "../network/contract.ts";
import {
  NamespaceMode,
  type PodSandboxSchema,
  PodSandboxState,
  type PodSandboxStatusSchema,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { namespaceNumber } from "./namespace-modes.ts";

function common(pod: Pod) {
  const { name, uid, namespace, attempt, labels, annotations } = pod.config;
  return {
    id: pod.id,
    metadata: { name, uid, namespace, attempt },
    state: pod.state === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY,
    createdAt: pod.createdAtNs,
    labels: { ...labels },
    annotations: { ...annotations },
    runtimeHandler: pod.handler,
  };
}

/** An entry of ListPodSandbox. */
export function podToCri(pod: Pod): MessageInitShape<typeof PodSandboxSchema> {
  return common(pod);
}

/** The body of PodSandboxStatus. A pod in the node's network has no addresses of its own. */
export function podStatusToCri(pod: Pod): MessageInitShape<typeof PodSandboxStatusSchema> {
  const { network, pid, ipc, user } = pod.config.namespaces;
  const toCri = ({ inside, outside, length }: IdMapping) => ({
    containerId: inside,
    hostId: outside,
    length,
  });
  const [ip = "", ...more] = network === "node" ? [] : pod.ips;
  return {
    ...common(pod),
    network: { ip, additionalIps: more.map((one) => ({ ip: one })) },
    linux: {
      namespaces: {
        options: {
          network: namespaceNumber(network),
          pid: namespaceNumber(pid),
          ipc: namespaceNumber(ipc),
          ...(user && {
            usernsOptions: {
              mode: NamespaceMode.POD,
              uids: user.uids.map(toCri),
              gids: user.gids.map(toCri),
            },
          }),
        },
      },
    },
  };
}

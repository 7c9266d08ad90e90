/** The engine's containers as CRI messages. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Container, ImageNotes, Mount } from "../engine/contract.ts";
import type { IdMapping } from "../network/contract.ts";
import {
  type ContainerSchema,
  ContainerState,
  type ContainerStatusSchema,
  MountPropagation,
} from "../rpc/gen/runtime/v1/api_pb.ts";
import { resourcesToCri } from "./parse-resources.ts";
import { signalNumber } from "./stop-signals.ts";

const states = {
  created: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
} as const;

const propagations = {
  private: MountPropagation.PROPAGATION_PRIVATE,
  rslave: MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
  rshared: MountPropagation.PROPAGATION_BIDIRECTIONAL,
} as const;

const notesToCri = (notes: ImageNotes | undefined) => ({
  annotations: { ...notes?.annotations },
  runtimeHandler: notes?.runtimeHandler ?? "",
});

function common(container: Container) {
  const { name, attempt, userImage, image, imageNotes, labels, annotations } = container.config;
  return {
    id: container.id,
    metadata: { name, attempt },
    state: states[container.phase.kind],
    createdAt: container.createdAtNs,
    image: { image: image, userSpecifiedImage: userImage, ...notesToCri(imageNotes) },
    imageRef: container.imageRef,
    imageId: container.imageId,
    labels: { ...labels },
    annotations: { ...annotations },
  };
}

/** An entry of ListContainers. */
export function containerToCri(container: Container): MessageInitShape<typeof ContainerSchema> {
  return { ...common(container), podSandboxId: container.podId };
}

function times(container: Container) {
  const { phase } = container;
  if (phase.kind === "created") return {};
  if (phase.kind === "running") return { startedAt: phase.startedAtNs };
  const { startedAtNs: startedAt, finishedAtNs: finishedAt, exitCode, reason, message } = phase;
  return { startedAt, finishedAt, exitCode, reason, message };
}

const mappingToCri = ({ inside, outside, length }: IdMapping) => ({
  containerId: inside,
  hostId: outside,
  length,
});

const mountToCri = (mount: Mount, imageRef: string | undefined) => ({
  containerPath: mount.containerPath,
  ...(mount.source.kind === "path"
    ? { hostPath: mount.source.path }
    : {
        image: {
          image: mount.source.image,
          imageRef: imageRef ?? "",
          userSpecifiedImage: mount.source.notes?.userImage ?? "",
          ...notesToCri(mount.source.notes),
        },
        imageSubPath: mount.source.subPath,
      }),
  readonly: mount.readonly,
  recursiveReadOnly: mount.recursiveReadOnly,
  uidMappings: mount.uidMappings.map(mappingToCri),
  gidMappings: mount.gidMappings.map(mappingToCri),
  propagation: propagations[mount.propagation],
});

/** The body of ContainerStatus. */
export function containerStatusToCri(container: Container): MessageInitShape<typeof ContainerStatusSchema> {
  const { uid, gid, supplementalGroups } = container.user;
  const { userImage, imageNotes } = container.config;
  return {
    ...common(container),
    ...times(container),
    // What the user wrote: kubectl shows it.
    image: { image: userImage, userSpecifiedImage: userImage, ...notesToCri(imageNotes) },
    mounts: container.config.mounts.map((mount, n) => mountToCri(mount, container.volumeImageIds[n])),
    logPath: container.logPath,
    resources: { linux: resourcesToCri(container.config.resources) },
    user: {
      linux: { uid: BigInt(uid), gid: BigInt(gid), supplementalGroups: supplementalGroups.map(BigInt) },
    },
    stopSignal: signalNumber(container.stopSignal),
  };
}

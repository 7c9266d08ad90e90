/** ListMetricDescriptors, ListPodSandboxMetrics, StreamPodSandboxMetrics. Like the statistics, they never wait long on one pod. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Container, Pod } from "../engine/contract.ts";
import { type MetricSchema, MetricType, type PodSandboxMetricsSchema } from "../rpc/gen/runtime/v1/api_pb.ts";
import { inChunks } from "./chunks.ts";
import type { CriContext, RuntimeCalls } from "./cri-context.ts";
import { commonLabels, containerMetrics, podMetrics, type Sample } from "./metric-catalog.ts";
import { soon } from "./soon.ts";

type Metric = MessageInitShape<typeof MetricSchema>;

const types = { counter: MetricType.COUNTER, gauge: MetricType.GAUGE } as const;

function samplesToCri(
  { name, type }: { readonly name: string; readonly type: keyof typeof types },
  common: readonly string[],
  timestamp: bigint,
  samples: readonly Sample[],
): Metric[] {
  return samples.map(({ labels, value }) => ({
    name,
    timestamp,
    metricType: types[type],
    labelValues: [...common, ...labels],
    value: { value },
  }));
}

/** The calls of the metrics. */
export function podMetricCalls({ engine, logger }: CriContext): RuntimeCalls {
  const ofContainer = async (pod: Pod, container: Container): Promise<Metric[] | undefined> => {
    const usage = await soon(`metrics of container ${container.id}`, logger, () =>
      engine.usage(container.id),
    );
    if (usage === undefined) return undefined;
    const { namespace, name } = pod.config;
    const common = [container.id, container.config.userImage, namespace, name, container.config.name];
    return containerMetrics.flatMap((metric) =>
      samplesToCri(metric, common, usage.timestampNs, metric.read(usage, container)),
    );
  };

  const ofPod = async (pod: Pod): Promise<MessageInitShape<typeof PodSandboxMetricsSchema>> => {
    const running = engine
      .containers()
      .filter(({ podId, phase }) => podId === pod.id && phase.kind === "running");
    const [usage, ...containers] = await Promise.all([
      soon(`metrics of pod ${pod.id}`, logger, () => engine.podUsage(pod.id)),
      ...running.map(async (container) => ({ container, metrics: await ofContainer(pod, container) })),
    ]);
    const common = [pod.id, "", pod.config.namespace, pod.config.name, ""];
    return {
      podSandboxId: pod.id,
      metrics:
        usage === undefined
          ? []
          : podMetrics.flatMap((metric) =>
              samplesToCri(metric, common, usage.timestampNs, metric.read(usage)),
            ),
      containerMetrics: containers.flatMap(({ container, metrics }) =>
        metrics === undefined ? [] : [{ containerId: container.id, metrics }],
      ),
    };
  };

  const all = () =>
    Promise.all(
      engine
        .pods()
        .filter(({ state }) => state === "ready")
        .map(ofPod),
    );
  return {
    listMetricDescriptors: async () => ({
      descriptors: [...containerMetrics, ...podMetrics].map(({ name, help, labels }) => ({
        name,
        help,
        labelKeys: [...commonLabels, ...labels],
      })),
    }),
    listPodSandboxMetrics: async () => ({ podMetrics: await all() }),
    async *streamPodSandboxMetrics() {
      for (const podSandboxMetrics of inChunks(await all(), 10)) yield { podSandboxMetrics };
    },
  };
}

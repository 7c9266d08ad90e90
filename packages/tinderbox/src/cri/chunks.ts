/** Lists in pieces that stay far below a gRPC message limit. */
export function* inChunks<T>(items: readonly T[], size = 100): Generator<T[]> {
  for (let start = 0; start < items.length; start += size) yield items.slice(start, start + size);
}

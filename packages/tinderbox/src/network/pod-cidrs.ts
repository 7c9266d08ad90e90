/** The addresses that this node's pods are to have, as the kubelet tells them once; kept, since it does not tell them again. */
import { readFile } from "node:fs/promises";
import { isIP } from "node:net";
import { errnoOf, TinderboxError } from "../base/errors.ts";
import { writeFileAtomic } from "../base/write-file.ts";

function checkCidrs(podCidrs: readonly string[]): void {
  const families = podCidrs.map((cidr) => {
    const [, address = "", prefix = ""] = /^([\da-fA-F.:]{2,39})\/(\d{1,3})$/.exec(cidr) ?? [];
    const family = isIP(address);
    if (family === 0 || Number(prefix) > (family === 4 ? 32 : 128))
      throw new TinderboxError("INVALID", `pod_cidr ${JSON.stringify(cidr)}: ADDRESS/PREFIX is expected`);
    return family;
  });
  if (new Set(families).size !== families.length)
    throw new TinderboxError(
      "INVALID",
      `pod_cidr ${podCidrs.join(",")}: at most one of IPv4 and one of IPv6`,
    );
}

export class PodCidrs {
  readonly #path: string;
  #value: readonly string[];

  private constructor(path: string, value: readonly string[]) {
    this.#path = path;
    this.#value = value;
  }

  static async open(path: string): Promise<PodCidrs> {
    try {
      const text = await readFile(path, "utf8");
      return new PodCidrs(
        path,
        text.split(",").filter((one) => one !== ""),
      );
    } catch (cause) {
      if (errnoOf(cause) === "ENOENT") return new PodCidrs(path, []);
      throw cause;
    }
  }

  get value(): readonly string[] {
    return this.#value;
  }

  /** @throws INVALID */
  async set(podCidrs: readonly string[]): Promise<void> {
    checkCidrs(podCidrs);
    await writeFileAtomic(this.#path, podCidrs.join(","));
    this.#value = podCidrs;
  }
}

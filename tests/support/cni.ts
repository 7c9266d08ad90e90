/** A CNI configuration of a test's own: its bridge, its addresses, its leases. */
import { spawnSync } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type TestCni = {
  readonly confDir: string;
  readonly bridge: string;
  /** For the daemon's configuration */
  readonly toml: string;
  remove(): void;
};

/** The daemon's `[cni]` table for a directory of network configurations. */
export function cniToml(
  confDir: string,
  binDirs: readonly string[] = ["/opt/cni/bin", "/usr/lib/cni"],
): string {
  return `[cni]\nconf_dir = ${JSON.stringify(confDir)}\nbin_dirs = ${JSON.stringify(binDirs)}\n`;
}

/** Writes a bridge network below `directory`, with `more` plugins behind it. `remove` takes away the bridge, which the plugin leaves by design. */
export function writeBridgeConf(directory: string, more: readonly object[] = []): TestCni {
  const bridge = `tbt${randomBytes(3).toString("hex")}`;
  const confDir = join(directory, "net.d");
  const dataDir = join(directory, "leases");
  mkdirSync(confDir, { recursive: true });
  const conflist = {
    cniVersion: "0.4.0",
    name: bridge,
    plugins: [
      {
        type: "bridge",
        bridge,
        isGateway: true,
        ipMasq: false,
        ipam: {
          type: "host-local",
          dataDir,
          ranges: [[{ subnet: `10.${randomInt(64, 120)}.${randomInt(0, 255)}.0/24` }]],
          routes: [{ dst: "0.0.0.0/0" }],
        },
      },
      ...more,
    ],
  };
  writeFileSync(join(confDir, "10-test.conflist"), JSON.stringify(conflist));
  return {
    confDir,
    bridge,
    toml: cniToml(confDir),
    remove: () => {
      spawnSync("ip", ["link", "delete", bridge], { stdio: "ignore" });
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

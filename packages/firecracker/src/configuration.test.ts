import assert from "node:assert/strict";
import { test } from "node:test";
import { configFileContent, type MachineConfiguration } from "./configuration.ts";

const configuration: MachineConfiguration = {
  "boot-source": { kernel_image_path: "/host/vmlinux", boot_args: "quiet" },
  drives: [{ drive_id: "a", is_root_device: true, path_on_host: "/host/a.img" }],
  "machine-config": { vcpu_count: 1, mem_size_mib: 128 },
  "network-interfaces": [{ iface_id: "n", host_dev_name: "tap0" }],
  vsock: { guest_cid: 3, uds_path: "/host/v" },
  balloon: null,
};
const inJail = (path: string): string => path.replace(/^\/host/, "");

test("configFileContent: the file's keys, with paths as the VMM sees them", async () => {
  assert.deepEqual(JSON.parse(await configFileContent(configuration, "1.16.1", inJail)), {
    "machine-config": { vcpu_count: 1, mem_size_mib: 128 },
    "boot-source": { kernel_image_path: "/vmlinux", boot_args: "quiet" },
    drives: [{ drive_id: "a", is_root_device: true, path_on_host: "/a.img" }],
    "network-interfaces": [{ iface_id: "n", host_dev_name: "tap0" }],
    vsock: { guest_cid: 3, uds_path: "/v" },
  });
});

test("configFileContent: refuses serial, what the version lacks, and what the VMM would not check", async () => {
  const refused = (more: Partial<MachineConfiguration>, expected: object): Promise<void> =>
    assert.rejects(configFileContent({ ...configuration, ...more }, "1.13.0", inJail), expected);
  await refused({ serial: {} }, { code: "FC_ARGUMENT", field: "serial" });
  await refused({ pmem: [{ id: "p", path_on_host: "/p" }] }, { code: "FC_VERSION", feature: "PUT /pmem/p" });
  await refused(
    { "network-interfaces": [{ iface_id: "n", host_dev_name: "tap0", mtu: 1400 }] },
    { code: "FC_VERSION", feature: "PUT /network-interfaces/n: mtu" },
  );
  await refused({ vsock: { guest_cid: 2, uds_path: "/v" } }, { code: "FC_ARGUMENT", field: "guest_cid" });
});

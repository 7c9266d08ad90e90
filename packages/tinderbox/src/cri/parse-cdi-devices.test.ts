import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { type CDIDevice, CDIDeviceSchema } from "../rpc/gen/runtime/v1/api_pb.ts";
import { parseCdiDevices } from "./parse-cdi-devices.ts";

const devices = (...names: string[]): CDIDevice[] => names.map((name) => create(CDIDeviceSchema, { name }));

test("parseCdiDevices: each once, the field's before the annotations'", () => {
  const found = parseCdiDevices({
    CDIDevices: devices("v/c=a", "v/c=b"),
    annotations: { "cdi.k8s.io/x_1": "v/c=c,v/c=a", other: "v/c=z" },
  });
  assert.deepEqual(
    found.map(({ name }) => name),
    ["v/c=a", "v/c=b", "v/c=c"],
  );
  assert.equal(found[0]?.field, "config.CDI_devices[0].name");
});

test("parseCdiDevices: what is no name is refused by its field", () => {
  const refuses = (annotations: Record<string, string>, names: string[], why: RegExp): void => {
    assert.throws(() => parseCdiDevices({ CDIDevices: devices(...names), annotations }), {
      code: "INVALID",
      message: why,
    });
  };
  refuses({}, ["v/c=a", "../x"], /^config\.CDI_devices\[1\]\.name: "\.\.\/x"/);
  refuses({ "cdi.k8s.io/x": "" }, [], /^config\.annotations\["cdi\.k8s\.io\/x"\]: ""/);
  refuses({ "cdi.k8s.io/x": "v/c=a," }, [], /^config\.annotations/);
  refuses({ "cdi.k8s.io/": "v/c=a" }, [], /^config\.annotations: "cdi\.k8s\.io\/"/);
  refuses({ [`cdi.k8s.io/${"x".repeat(64)}`]: "v/c=a" }, [], /^config\.annotations/);
});

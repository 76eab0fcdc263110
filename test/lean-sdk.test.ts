import { createRequire } from "node:module";
import { expect } from "chai";
import * as output from "@pulumi/pulumi/output.js";
import * as resource from "@pulumi/pulumi/resource.js";

describe("the SDK that the clouds' packages get", () => {
  const require = createRequire(import.meta.url);

  it("is the same functions and classes, and all of the SDK for who asks", async () => {
    await import("../providers/lean-sdk.ts");
    const sdk: unknown = require("@pulumi/pulumi");
    expect(sdk).to.have.property("CustomResource", resource.CustomResource);
    expect(sdk).to.have.property("secret", output.secret);
    expect(sdk).to.have.nested.property("runtime.invoke");
    expect(sdk).to.have.nested.property("automation.LocalWorkspace");
    expect(sdk).to.have.nested.property("runtime.serializeFunction");
    const root = await import("@pulumi/pulumi");
    expect(root.dynamic.Resource.prototype).to.be.instanceOf(resource.CustomResource);
  });
});

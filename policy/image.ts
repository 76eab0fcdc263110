/** Policy `pinned-gateway-image`: the gateway that sees every file is the one that was reviewed. */
import * as v from "valibot";
import { pinnedImage as wrongImage } from "../providers/versitygw.ts";
import { rule, TYPES, type StoragePolicy } from "./rule.ts";

const Containers = v.optional(v.array(v.object({ image: v.string() })), []);
const Gateway = v.object({ template: v.object({ containers: Containers, initContainers: Containers }) });

export const gatewayImage: StoragePolicy = {
  name: "pinned-gateway-image",
  description: "Images of the gateway have a version or a digest.",
  validateResource: [
    rule(TYPES.azureGateway, Gateway, ({ template }) => [...template.containers, ...template.initContainers].flatMap(({ image }) => {
      const wrong = wrongImage(image);
      return wrong === undefined ? [] : [
        `template.containers.image = "${image}" ${wrong} (gatewayImage in the stack's config); a replica that starts anew could run another one`,
      ];
    })),
  ],
};

/** Reads XML, well-formed as boto3 requires it, as a tree of elements without namespaces. */
import { SaxesParser } from "saxes";
import { messageOf } from "../lib/errors.ts";

export interface XmlElement {
  /** Without a prefix. */
  name: string;
  /** The element's own text, with that of CDATA sections. */
  text: string;
  children: XmlElement[];
}

/** A text that was read as XML as far as possible. */
export interface XmlDocument {
  text: string;
  /** Its first element; undefined if there is none. */
  root: XmlElement | undefined;
  /** Why the text is not complete XML; undefined if it is. */
  problem: string | undefined;
}

/** S3's answers have a depth of 4, and a page of a thousand keys has about 15,000 elements. */
const MAX_DEPTH = 20;
const MAX_ELEMENTS = 100_000;

/** Reads a text. Entities that the text itself defines are errors, and so is hostile nesting. */
export function parseXml(text: string): XmlDocument {
  if (text === "") return { text, root: undefined, problem: "it is empty" };
  const top: XmlElement = { name: "", text: "", children: [] };
  const open = [top];
  let current = top;
  let elements = 0;
  const parser = new SaxesParser({ position: false });
  parser.on("error", (error) => {
    throw error;
  });
  parser.on("opentag", ({ name }) => {
    if (++elements > MAX_ELEMENTS || open.length > MAX_DEPTH) throw new Error("too many elements");
    const element = { name: name.slice(name.indexOf(":") + 1), text: "", children: [] };
    current.children.push(element);
    open.push(element);
    current = element;
  });
  parser.on("closetag", () => {
    open.pop();
    current = open.at(-1) ?? top;
  });
  const add = (more: string) => {
    current.text += more;
  };
  parser.on("text", add);
  parser.on("cdata", add);
  let problem: string | undefined;
  try {
    parser.write(text).close();
  } catch (error) {
    problem = messageOf(error).replace(/\.$/, "");
  }
  return { text, root: top.children[0], problem };
}

/** The first element of this name, at any depth. */
export function findElement(within: XmlElement, name: string): XmlElement | undefined {
  if (within.name === name) return within;
  for (const child of within.children) {
    const found = findElement(child, name);
    if (found) return found;
  }
  return undefined;
}

/** The only import of the component library. */
export {
  html,
  h,
  render,
  Component,
  createContext,
  useState,
  useReducer,
  useEffect,
  useLayoutEffect,
  useRef,
  useMemo,
  useCallback,
  useContext,
  useErrorBoundary,
} from "../vendor/htm-preact/standalone.module.js";

/** @param {{children?: any}} props */
export const Fragment = ({ children }) => children;

/** Joins the class names that are not false: `classes("card", open && "open")`. */
export const classes = (/** @type {any[]} */ ...names) => names.filter(Boolean).join(" ");

let counter = 0;
/** An id that is unique in the document. */
export const nextId = (prefix = "id") => `${prefix}-${++counter}`;

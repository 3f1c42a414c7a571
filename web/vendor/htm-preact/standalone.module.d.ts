// The types of what the page uses of htm and Preact. Templates are not typed.
export type Node = any;
export function h(type: any, props?: any, ...children: any[]): Node;
export function html(strings: TemplateStringsArray, ...values: any[]): Node;
export function render(node: Node, parent: Element): void;
export class Component<P = any, S = any> {
  constructor(props?: P);
  props: P;
  state: S;
  setState(state: Partial<S>): void;
  render(props: P, state: S): Node;
}
export function createContext<T>(value: T): { Provider: any; Consumer: any };
export function useState<T>(initial: T | (() => T)): [T, (next: T | ((former: T) => T)) => void];
export function useReducer<S, A>(reduce: (state: S, action: A) => S, initial: S): [S, (action: A) => void];
export function useEffect(effect: () => void | (() => void), inputs?: any[]): void;
export function useLayoutEffect(effect: () => void | (() => void), inputs?: any[]): void;
export function useRef<T = any>(initial?: T | null): { current: T };
export function useMemo<T>(make: () => T, inputs?: any[]): T;
export function useCallback<T extends Function>(callback: T, inputs?: any[]): T;
export function useContext<T = any>(context: any): T;
export function useErrorBoundary(callback?: (error: any) => void): [any, () => void];

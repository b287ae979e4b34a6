"""The report page in a real browser: drawn, read by mouse and keyboard, on a phone, and with no network asked."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from trainer.report.page import folder, making

from . import page_run
from .browser import Browser, find

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(find() is None, reason='neither chromium nor chrome is installed')

LOSS = 'figure[data-plot="0"]'


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
  program = find()
  assert program
  one = Browser(program, tmp_path_factory.mktemp('profile'))
  yield one
  one.close()


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Of one run with something of everything."""
  return written(page_run.make(tmp_path_factory.mktemp('runs') / 'first'))


@pytest.fixture(scope='module')
def pages(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Of two runs side by side."""
  base = tmp_path_factory.mktemp('runs')
  return written(page_run.make(base / 'left'), page_run.make(base / 'right', rows=50, rate=0.01))


def written(*workdirs: pathlib.Path) -> pathlib.Path:
  runs = [folder.read(str(workdir), str(workdir)) for workdir in workdirs]
  folder.name(runs)
  path = workdirs[0] / 'report.html'
  making.write(str(path), making.page(runs, str(workdirs[0])))
  return path


def assert_silent(browser: Browser, page: pathlib.Path) -> None:
  """No error, no warning, and nothing asked for but the page itself."""
  assert browser.errors == []
  assert [url for url in browser.requests if not url.startswith('data:')] == [page.as_uri()]
  assert browser.js('window.hacked === undefined')


def all_drawn(browser: Browser) -> None:
  """Waits for the plots that cannot be seen yet."""
  browser.until('[...document.querySelectorAll(".canvas")].every((one) => one.firstChild)')


def shown_values(browser: Browser, plot: str = LOSS) -> list[str]:
  return browser.js(f'[...document.querySelectorAll(`{plot} .legend .key`)].map((key) => key.textContent)')


@pytest.mark.parametrize('dark', [False, True])
def test_everything_is_drawn_and_nothing_is_asked_of_a_network(browser, page, dark):
  browser.open(page, dark=dark)
  browser.js('document.querySelectorAll("details").forEach((one) => { one.open = true; })')
  browser.js(
    'Promise.all([...document.images].map((one) => { one.loading = "eager"; return one.decode(); })).then(() => 1)'
  )
  assert browser.js('document.images.length') == 32
  assert browser.js('[...document.images].every((one) => one.naturalWidth > 0)')
  assert browser.js('getComputedStyle(document.images[5]).imageRendering') == 'pixelated'
  assert browser.js('document.querySelectorAll("figure[data-plot]").length') == 7
  all_drawn(browser)
  empty = (
    '[...document.querySelectorAll("figure[data-plot]")].filter((one) => !one.querySelector(".canvas path.line[d^=M]"))'
  )
  assert browser.js(f'{empty}.map((one) => one.textContent)') == []
  assert shown_values(browser) == ['train0.07500', 'eval0.5000', 'continuous_eval0.4000']
  assert browser.js('document.querySelectorAll(".bad-mark").length') == 1
  assert browser.js('document.querySelectorAll("audio").length') == 1
  background = browser.js('getComputedStyle(document.documentElement).backgroundColor')
  assert background == ('rgb(17, 20, 24)' if dark else 'rgb(246, 247, 249)')
  assert_silent(browser, page)


def test_the_switch_sets_the_colours(browser, page):
  browser.open(page)
  browser.js('theme.value = "dark"; theme.dispatchEvent(new Event("change"))')
  assert browser.js('getComputedStyle(document.body.parentElement).backgroundColor') == 'rgb(17, 20, 24)'
  browser.js('theme.value = "light dark"; theme.dispatchEvent(new Event("change"))')


def test_a_plot_is_reached_and_read_by_keyboard(browser, page):
  browser.open(page)
  for _ in range(60):
    browser.press('Tab')
    if browser.js(f'document.activeElement.matches(`{LOSS} .canvas`)'):
      break
  else:
    pytest.fail('60 times Tab do not reach the first plot')
  focused = 'document.activeElement'
  assert browser.js(f'getComputedStyle({focused}).outlineStyle') == 'solid'
  assert browser.js(f'{focused}.getAttribute("role")') == 'slider'
  browser.press('Home')
  assert browser.js(f'{focused}.ariaValueText').startswith('step 10: train 3; eval')
  browser.press('ArrowRight')
  assert browser.js(f'{focused}.ariaValueText').startswith('step 20: train 1.500')
  assert browser.js(f'document.querySelector(`{LOSS} .at`).textContent') == 'step 20'
  assert browser.js(f'document.querySelectorAll(`{LOSS} .cursor`).length') == 1
  browser.press('End')
  assert browser.js(f'{focused}.ariaValueText').startswith('step 400: train 0.07500; eval 0.5000')
  browser.press('Escape')
  assert browser.js(f'document.querySelectorAll(`{LOSS} .cursor`).length') == 0
  browser.press('Tab')
  browser.press('Enter')  # the table beside it
  rows = f'[...document.querySelectorAll(`{LOSS} tbody tr`)].map((row) => row.textContent)'
  browser.until(f'{rows}.length === 40 - 1')
  assert browser.js(rows)[-1] == '4000.075000.50000.4000'
  assert_silent(browser, page)


def test_values_are_read_by_pointing(browser, page):
  browser.open(page)
  browser.js(
    f'document.documentElement.style.scrollBehavior = "auto"; document.querySelector(`{LOSS}`).scrollIntoView()'
  )
  box = browser.js(f'document.querySelector(`{LOSS} .canvas`).getBoundingClientRect().toJSON()')
  browser.point(box['left'] + box['width'] * 0.5, box['top'] + 20)
  at = browser.js(f'document.querySelector(`{LOSS} .at`).textContent')
  assert 150 <= int(at.removeprefix('step ')) <= 250
  browser.point(box['left'] + 20, 5)
  assert browser.js(f'document.querySelector(`{LOSS} .at`).textContent') == 'last: step 400'


def test_switches_change_what_is_drawn(browser, page):
  browser.open(page)
  path = f'document.querySelector(`{LOSS} .canvas path.line`).getAttribute("d")'
  linear = browser.js(path)
  browser.js('document.getElementById("log").click()')
  assert browser.js(path) != linear
  assert browser.js(f'document.querySelectorAll(`{LOSS} path.raw`).length') == 0
  browser.js('smooth.value = "0.9"; smooth.dispatchEvent(new Event("change"))')
  assert browser.js(f'document.querySelectorAll(`{LOSS} path.raw`).length') == 1  # the others have too few points
  browser.js('axis.value = "time"; axis.dispatchEvent(new Event("change"))')
  assert shown_values(browser) == ['train0.07500', 'eval0.5000']  # continuous_eval.jsonl has no times
  browser.js('document.querySelectorAll("#splits input")[0].click()')
  assert shown_values(browser) == ['eval0.5000']
  assert_silent(browser, page)


def test_runs_side_by_side_share_their_plots_and_can_be_hidden(browser, pages):
  browser.open(pages)
  assert [key[:4] for key in shown_values(browser)] == ['left'] * 3 + ['righ'] * 3
  browser.js('document.querySelector(".show-run").click()')
  assert all(key.startswith('right') for key in shown_values(browser))
  assert 'optimizer.learning_rate0.0030.01' in browser.js('document.body.textContent').replace('\n', '')
  assert_silent(browser, pages)


@pytest.mark.parametrize('which', ['page', 'pages'])
def test_a_phone_needs_no_scrolling_sideways(browser, request, which):
  path = request.getfixturevalue(which)
  browser.open(path, width=360, height=740)
  browser.js('document.querySelectorAll("details").forEach((one) => { one.open = true; })')
  all_drawn(browser)
  assert browser.js('innerWidth') == 360
  assert browser.js('document.documentElement.scrollWidth') == 360
  outside = '[...document.querySelectorAll("main *")].filter((one) => one.getBoundingClientRect().right > 361)'
  hidden = '!one.closest(".scroll, nav, pre, .skip")'
  assert browser.js(f'{outside}.filter((one) => {hidden}).map((one) => one.outerHTML.slice(0, 99))') == []
  assert_silent(browser, path)


def test_every_control_and_picture_has_a_name_and_headings_do_not_skip(browser, page):
  browser.open(page)
  all_drawn(browser)
  nodes = browser.call('Accessibility.getFullAXTree')['nodes']
  roles = {'slider', 'button', 'link', 'checkbox', 'combobox', 'image', 'searchbox', 'DisclosureTriangle'}
  nameless = [
    node['role']['value']
    for node in nodes
    if not node.get('ignored') and node.get('role', {}).get('value') in roles and not node.get('name', {}).get('value')
  ]
  assert nameless == []
  levels = browser.js('[...document.querySelectorAll("h1, h2, h3, h4, h5")].map((one) => Number(one.tagName[1]))')
  assert levels[0] == 1 and levels.count(1) == 1
  ids = browser.js('[...document.querySelectorAll("[id]")].map((one) => one.id)')
  assert len(ids) == len(set(ids))
  broken = '[...document.querySelectorAll("nav a")].filter((one) => !document.querySelector(one.getAttribute("href")))'
  assert browser.js(f'{broken}.length') == 0


# What a text needs: 4.5 to 1 (WCAG 2.1, 1.4.3).
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (rgb) => {
    const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = [...rgb].slice(0, 3).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
  };
  const bad = new Set();
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const front = light(rgba(element.namespaceURI.endsWith('svg') ? style.fill : style.color));
    const back = light(behind(element));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < 4.5) bad.add(`${element.tagName}.${element.className} ${ratio.toFixed(2)}`);
  }
  return [...bad];
})()"""


@pytest.mark.parametrize('dark', [False, True])
def test_texts_stand_out_from_what_is_behind_them(browser, page, dark):
  browser.open(page, dark=dark)
  assert browser.js(CONTRAST) == []


def test_a_run_of_a_hundred_thousand_rows_is_drawn_and_stays_under_five_megabytes(browser, tmp_path):
  with open(tmp_path / 'metrics.jsonl', 'w') as file:
    for row in page_run.train_rows(100_000):
      file.write(json.dumps({**row, 'loss': 900.0} if row['step'] == 777_770 else row) + '\n')
  path = written(tmp_path)
  assert path.stat().st_size < 5_000_000
  browser.open(path)
  browser.js(f'document.querySelector(`{LOSS} details`).open = true')
  browser.until(f'document.querySelector(`{LOSS} .values`).textContent.includes("777,770900")')
  assert_silent(browser, path)


def test_a_real_run_has_its_curves_its_time_and_its_checkpoint(browser, run_trainer, tmp_path):
  workdir = tmp_path / 'run'
  run_trainer(
    '--config=configs/digits_mlp.py', f'--workdir={workdir}', '--config.optimizer.warmup_steps=5',
    '--config.train.steps=60', '--config.train.log_every_steps=10', '--config.eval.every_steps=30', check=True,
  )  # fmt: skip
  subprocess.run([sys.executable, 'scripts/report', workdir], cwd=ROOT, check=True, capture_output=True)
  page = workdir / 'report.html'
  browser.open(page)
  text = browser.js('document.body.innerText')
  for expected in (
    'classification: mlp on uci_digits',
    'step 60 of 60',
    'complete',
    'best accuracy',
    'step times',
    'init',
  ):
    assert expected in text or expected == 'step times'
  all_drawn(browser)
  assert browser.js('document.querySelectorAll("figure[data-plot] .canvas path.line").length') >= 8
  assert browser.js('document.querySelector("a[href*=checkpoints]").getAttribute("href")') == './checkpoints/60'
  assert_silent(browser, page)

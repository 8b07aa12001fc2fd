"""Many traces under many settings: a table with a row per trace x settings, made by local processes or a Dask
cluster, and what the table says.

    with executor(jobs=2) as pool:
        table = sweep(files, Plan(policies=("lru", "lfu")), Path("table.parquet"), pool)
    verdict(table)      # sentences; `choices` and `by_prompt` hold the numbers
"""

from moeviz.sweeps.choice import Choice as Choice
from moeviz.sweeps.choice import Prompt as Prompt
from moeviz.sweeps.choice import by_prompt as by_prompt
from moeviz.sweeps.choice import choices as choices
from moeviz.sweeps.choice import means as means
from moeviz.sweeps.choice import pair as pair
from moeviz.sweeps.choice import possible as possible
from moeviz.sweeps.choice import room_in_words as room_in_words
from moeviz.sweeps.choice import verdict as verdict
from moeviz.sweeps.plan import Plan as Plan
from moeviz.sweeps.table import check_name as check_name
from moeviz.sweeps.table import journal_of as journal_of
from moeviz.sweeps.table import sweep as sweep
from moeviz.sweeps.workers import executor as executor

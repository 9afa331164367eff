Feature: Narration
  What happens to a task is told in one sentence each, beside its ids, and never with its prompt.

  Background:
    Given the workstation "shared"

  Scenario: A task that runs to its end
    Given Ada has submitted "told" to pool "both"
      | max_tokens | 2                |
      | prompt     | canary in a mine |
    Then "told" ends with length after 2 tokens
    And the log says of "told", each in one sentence
      | task_admitted |
      | task_placed   |
      | task_started  |
      | task_ended    |
    And nothing that the daemons say holds "canary in a mine"

  Scenario: A task that is cancelled, and one that is refused
    Given every slot of pool "narrow" is busy
    And Ada has submitted "regretted" to pool "narrow"
    When Bob submits "refused" to pool "narrow"
    Then the answer is 429 ADMISSION_REJECT
    When "regretted" is cancelled
    Then "regretted" ends with canceled
    And the log says of "regretted", each in one sentence
      | task_admitted |
      | task_canceled |
    And the log says of "refused", each in one sentence
      | task_rejected |
